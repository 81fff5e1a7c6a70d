"""Encoders: any timm model as a feature pyramid with declared strides."""

from segweave.backbones.encoder import Encoder as Encoder
