"""The LightningDataModules. Every stage shares `LibriLightDataModule`."""

from datamodules.libri_light import LibriLightDataModule

__all__ = ["LibriLightDataModule"]
