"""Parts of the backend for endpoints: its settings, what a reply says, when a call is made again, and limits."""
