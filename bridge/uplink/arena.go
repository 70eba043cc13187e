package uplink

// arena hands out slices that last until reset. What it got from the allocator it uses again.
type arena[T any] struct {
	block  int // elements of a block [4096]; what is larger than a quarter of it is allocated by itself
	blocks [][]T
	used   int // blocks that are full
}

// take returns n elements with what stood there before.
func (a *arena[T]) take(n int) []T {
	if a.block == 0 {
		a.block = 4096
	}
	if n > a.block/4 {
		return make([]T, n)
	}
	for ; a.used < len(a.blocks); a.used++ {
		if b := a.blocks[a.used]; cap(b)-len(b) >= n {
			a.blocks[a.used] = b[:len(b)+n]
			return b[len(b) : len(b)+n : len(b)+n]
		}
	}
	a.blocks = append(a.blocks, make([]T, n, a.block))
	return a.blocks[a.used][:n:n]
}

// copy returns a copy of s; nil stays nil.
func (a *arena[T]) copy(s []T) []T {
	if s == nil {
		return nil
	}
	to := a.take(len(s))
	copy(to, s)
	return to
}

// reset takes everything back.
func (a *arena[T]) reset() {
	for i := range a.blocks {
		a.blocks[i] = a.blocks[i][:0]
	}
	a.used = 0
}
