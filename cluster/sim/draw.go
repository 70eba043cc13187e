package sim

import (
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"
)

// draws gives each question its own row of random numbers, named by a key: what one part of the simulation draws does not depend on how many numbers
// the others have drawn before. So two runs of a seed stay together even where Go runs goroutines in another order.
type draws struct {
	seed uint64
	mu   sync.Mutex
	n    map[string]uint64
}

func newDraws(seed uint64) *draws { return &draws{seed: seed, n: map[string]uint64{}} }

// of is the next generator of a key's row.
func (d *draws) of(key string) *rand.Rand {
	d.mu.Lock()
	n := d.n[key]
	d.n[key]++
	d.mu.Unlock()
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	return rand.New(rand.NewPCG(d.seed^h.Sum64(), n))
}

// between is a duration from lo to hi, to the nanosecond: no two events fall on one instant.
func between(r *rand.Rand, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(r.Int64N(int64(hi-lo)+1))
}

// chance is true once in n times.
func chance(r *rand.Rand, n int) bool { return r.IntN(n) == 0 }

// bytesOf reads a row as bytes: ids and salts.
type bytesOf struct {
	mu sync.Mutex
	r  *rand.ChaCha8
}

// Read implements io.Reader.
func (b *bytesOf) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.r.Read(p)
}

func (d *draws) reader(key string) *bytesOf {
	r := d.of(key)
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(r.Uint32())
	}
	return &bytesOf{r: rand.NewChaCha8(seed)}
}
