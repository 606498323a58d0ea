"""The adapter setting of Dude: frozen sentence features, adapted by self-attention."""
