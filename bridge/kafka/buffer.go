package kafka

import (
	"math/bits"
	"sync"
)

const (
	minBufferClass = 12 // 4 KiB
	maxBufferClass = 24 // 16 MiB: larger ones are left to the collector
)

// buffer is a pooled byte slice. Whoever holds one owns it and gives it back with free,
// once; a buffer that is dropped instead is only collected, never shared.
type buffer struct{ b []byte }

var bufferPools [maxBufferClass + 1]sync.Pool

// newBuffer returns an empty buffer with room for at least n bytes.
func newBuffer(n int) *buffer {
	class := max(bits.Len(uint(max(n, 1)-1)), minBufferClass)
	if class > maxBufferClass {
		return &buffer{b: make([]byte, 0, n)}
	}
	if b, ok := bufferPools[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{b: make([]byte, 0, 1<<class)}
}

// size is what the buffer costs.
func (b *buffer) size() int64 {
	if b == nil {
		return 0
	}
	return int64(cap(b.b))
}

// free gives the buffer back. Its bytes must not be used afterwards.
func (b *buffer) free() {
	if b == nil {
		return
	}
	c := cap(b.b)
	class := bits.Len(uint(c)) - 1 // the class it can serve in full
	if class < minBufferClass || class > maxBufferClass || c != 1<<class {
		return
	}
	b.b = b.b[:0]
	bufferPools[class].Put(b)
}

// grow makes room for n more bytes, moving to a pooled array of the next class.
func (b *buffer) grow(n int) {
	if cap(b.b)-len(b.b) >= n {
		return
	}
	next := newBuffer(max(len(b.b)+n, 2*cap(b.b)))
	next.b = append(next.b, b.b...)
	b.b, next.b = next.b, b.b
	next.free()
}
