"""The parts of the model store: what files say of themselves, publishing, aliases, holders, cleaning."""
