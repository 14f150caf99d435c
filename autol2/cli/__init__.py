"""The command line: parsing of overrides, help texts, composition of configurations, and output."""
