package kafka

// groupAPIs are the requests of consumer groups, and of the offsets they commit.
func groupAPIs() []api {
	return []api{}
}
