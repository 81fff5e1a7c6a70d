"""Encoders: any timm model as a feature pyramid with declared strides."""

from segweave.backbones.backbone import Backbone as Backbone
from segweave.backbones.custom import CustomBackbone as CustomBackbone
from segweave.backbones.encoder import Encoder as Encoder
