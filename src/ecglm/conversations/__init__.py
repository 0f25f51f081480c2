"""Instruction data → Conversation, one file per corpus."""
