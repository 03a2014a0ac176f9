"""`make acceptance`: the whole life of several stacks in a test account, and its end.

Deploys with the few rights of docs/deployer-policy.json: two stacks, and one of the same name in a
second Region; updates, deletes and re-creates one. After each step `broker verify --active` looks
at every stack that is there. Whatever happens, all of it is removed at the end.
"""
