"""Vision-language-action policies on real arms, inside hard safety limits, improving by themselves."""

__version__ = "0.2.0"
