"""fastrl inside other trainers. A module needs the package that it is named after."""
