"""Words to a complete, checked configuration. Only this room and the commands use Hydra."""
