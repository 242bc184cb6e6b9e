"""How large are differences between policies, once the luck that a simulator knows is taken off?"""
