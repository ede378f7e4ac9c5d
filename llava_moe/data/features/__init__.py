"""What a frozen vision tower makes of images, kept: which image is which, and where its features lie."""
