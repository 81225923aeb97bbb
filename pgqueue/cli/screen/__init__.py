"""The live screen of `pgqueue top`."""
