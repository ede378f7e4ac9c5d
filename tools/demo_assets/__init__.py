"""The programs that made the images and the base model of llava_moe/demo."""
