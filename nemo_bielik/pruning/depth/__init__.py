"""Which layers can go: five ways to choose them, how far they agree, and what each costs."""
