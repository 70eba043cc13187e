package uplink

// arena keeps copies of what records point to until the target has them. Slabs are used again.
type arena struct {
	slabs [][]byte
	used  int // slabs that are full
}

const slabBytes = 256 << 10

// copy returns a copy of b that lasts until reset; nil stays nil.
func (a *arena) copy(b []byte) []byte {
	if b == nil {
		return nil
	}
	to := a.alloc(len(b))
	copy(to, b)
	return to
}

// alloc returns n bytes that last until reset.
func (a *arena) alloc(n int) []byte {
	if n > slabBytes/4 {
		return make([]byte, n)
	}
	for ; a.used < len(a.slabs); a.used++ {
		if s := a.slabs[a.used]; cap(s)-len(s) >= n {
			a.slabs[a.used] = s[:len(s)+n]
			return s[len(s) : len(s)+n : len(s)+n]
		}
	}
	a.slabs = append(a.slabs, make([]byte, n, slabBytes))
	return a.slabs[a.used][:n:n]
}

// reset takes everything back.
func (a *arena) reset() {
	for i := range a.slabs {
		a.slabs[i] = a.slabs[i][:0]
	}
	a.used = 0
}
