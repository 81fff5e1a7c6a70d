"""Tables and pictures from plain results; knows no trainer and no task kind."""
