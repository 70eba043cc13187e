package conn

import (
	"math/bits"
	"sync"
)

// Buffer is a pooled byte slice. Whoever holds it owns it; Put ends that.
type Buffer struct{ B []byte }

const (
	minBufferBits = 9  // 512 B
	maxBufferBits = 19 // 512 KiB; larger ones are left to the garbage collector
)

var pools [maxBufferBits - minBufferBits + 1]sync.Pool

// Get returns an empty buffer with room for at least n bytes.
func Get(n int) *Buffer {
	class := max(bits.Len(uint(max(n, 1)-1)), minBufferBits)
	if class > maxBufferBits {
		return &Buffer{make([]byte, 0, n)}
	}
	if b, ok := pools[class-minBufferBits].Get().(*Buffer); ok {
		return b
	}
	return &Buffer{make([]byte, 0, 1<<class)}
}

// Put gives b back. It is filed by the room it has grown to.
func Put(b *Buffer) {
	class := bits.Len(uint(cap(b.B))) - 1
	if class < minBufferBits || class > maxBufferBits {
		return
	}
	b.B = b.B[:0]
	pools[class-minBufferBits].Put(b)
}
