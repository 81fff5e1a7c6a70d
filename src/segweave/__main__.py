from segweave.cli import main

main()
