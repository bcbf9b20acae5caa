"""Gives damaged images to everything in ipcimg that reads images, and judges what it does with them."""
