"""BasicSR's models with the losses of `train.nlcl_opt`; see `NLCLMixin` for the same with a model of your own."""

from basicsr.models.esrgan_model import ESRGANModel
from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.models.swinir_model import SwinIRModel

from nlcl_plugin.models.nlcl_mixin import NLCLMixin


class NLCLSRModel(NLCLMixin, SRModel):
    """`SRModel` (EDSR, RCAN, RRDBNet and others) with NLCL."""


class NLCLSwinIRModel(NLCLMixin, SwinIRModel):
    """`SwinIRModel` with NLCL."""


class NLCLSRGANModel(NLCLMixin, SRGANModel):
    """`SRGANModel` with NLCL."""


class NLCLESRGANModel(NLCLMixin, ESRGANModel):
    """`ESRGANModel` with NLCL."""
