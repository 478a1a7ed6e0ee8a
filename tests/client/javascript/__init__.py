"""The JavaScript client, in Node: programs of its own and what drives them."""
