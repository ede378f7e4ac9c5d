"""``python -m llava_moe`` is the command line; launchers (torchrun, deepspeed) start it this way."""

from llava_moe.cli import main

if __name__ == "__main__":
    main()
