"""A live MediaWiki, asked politely: what it answers, what it gave before, how to behave."""
