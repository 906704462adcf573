"""The Hub: eval cards, publishing and loading back. Import from the modules, which are heavy in different ways."""
