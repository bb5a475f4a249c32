"""A study: whether rain layers have a lower intrinsic dimension than image layers."""
