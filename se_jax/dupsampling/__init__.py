"""DUpsampling's linear decoder of label patches: windows of labels, and the fit to them before training."""
