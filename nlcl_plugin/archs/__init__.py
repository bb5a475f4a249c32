"""Networks: plain `nn.Module`s that need torch alone. RGB in [0, 1] in and out."""

from nlcl_plugin.archs.context_unet_arch import ContextUNet
from nlcl_plugin.archs.feature_encoder_arch import FeatureEncoder
from nlcl_plugin.archs.layer_generator_arch import LayerGenerator, convert_official_state_dict
from nlcl_plugin.archs.patch_discriminator_arch import PatchDiscriminator
from nlcl_plugin.archs.projection_heads_arch import ProjectionHeads
from nlcl_plugin.archs.residual_unet_arch import ResidualUNet
from nlcl_plugin.archs.simple_gate_unet_arch import SimpleGateUNet

__all__ = [
    "ContextUNet",
    "FeatureEncoder",
    "LayerGenerator",
    "PatchDiscriminator",
    "ProjectionHeads",
    "ResidualUNet",
    "SimpleGateUNet",
    "convert_official_state_dict",
]
