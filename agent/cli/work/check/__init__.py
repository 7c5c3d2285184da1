"""`quietwire check`. What is seen (`seen`, got by `gather`) is judged by pure functions, a module for each noun.

A check that could not be made is never well: it is `unknown`, and counts as what is wrong does.
"""
