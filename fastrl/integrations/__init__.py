"""fastrl in other trainers: TRL, verl, transformers. Each module needs the package in its name."""
