package vfs

import "math/rand/v2"

// CrashClone returns the disk as somebody finds it who cuts the power now: every synced byte and name,
// and of what was not synced a part. keep is the chance, for each 512-byte sector and each directory
// change, that it had reached the disk: 0 and 1 are exact (rng may be nil), between them rng decides,
// so a seed repeats the outcome. Directory changes reach the disk in any order, only those of the same name
// keep theirs. Data whose sync failed is gone. The original is not changed and may go on.
func (m *Mem) CrashClone(keep float64, rng *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := NewMem()
	c.capacity = m.capacity
	c.root = m.root.crash(keep, rng, map[*memNode]*memNode{}, &c.used)
	return c
}

// crash copies the node; seen keeps a file that two names reach as one file.
func (n *memNode) crash(keep float64, rng *rand.Rand, seen map[*memNode]*memNode, used *int64) *memNode {
	if c := seen[n]; c != nil {
		c.links++
		return c
	}
	if n.dir == nil {
		c := &memNode{links: 1, data: n.data.crash(keep, rng)}
		seen[n] = c
		*used += c.data.bytes()
		return c
	}
	names := map[string]*memNode{}
	for name, child := range n.durable {
		names[name] = child
	}
	missing := map[string]bool{} // names with a change that did not reach the disk
	for _, op := range n.pending {
		lost := missing[op.name] || missing[op.gone]
		if lost || keep < 1 && (keep == 0 || rng.Float64() >= keep) {
			missing[op.name] = true
			if op.gone != "" {
				missing[op.gone] = true
			}
			continue
		}
		op.apply(names)
	}
	c := newMemDir()
	c.links = 1
	seen[n] = c
	for _, name := range sortedNames(names) {
		child := names[name].crash(keep, rng, seen, used)
		c.dir[name], c.durable[name] = child, child
	}
	return c
}
