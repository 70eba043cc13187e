package cluster

// ioLock is a mutex for whoever holds it over I/O. To wait for it is to wait on a channel: a simulated clock (testing/synctest) can
// tell that from work, and goes on.
type ioLock chan struct{}

func newIOLock() ioLock { return make(ioLock, 1) }

func (l ioLock) Lock()   { l <- struct{}{} }
func (l ioLock) Unlock() { <-l }
