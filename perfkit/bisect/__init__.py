"""Which commit made a service worse: git's bisection, each step a settled comparison of two builds."""
