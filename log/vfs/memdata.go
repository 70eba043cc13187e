package vfs

import (
	"io"
	"math/rand/v2"
	"slices"
)

const (
	pageSize   = 4096
	sectorSize = 512 // what a disk writes whole or not at all
	// maxVersions bounds the remembered states of a page between two syncs.
	maxVersions = 4
)

type page [pageSize]byte

var zeroPage page

// memData is the contents of a file: pages as the page cache shows them, and for each page that
// differs from the disk, what the disk may have instead. Guarded by Mem.mu.
type memData struct {
	pages map[int64]*page // no page: a hole of zeros; a shared page is never written
	size  int64

	syncedSize int64
	low        int64 // smallest size since the last sync
	dirty      map[int64]*dirtyPage
	lost       map[int64]*page // contents on disk of pages whose sync failed
}

// dirtyPage is a page with writes since the last sync. The kernel may write it back at any time, so
// each of its sectors on disk is as in onDisk, or as after any of those writes.
type dirtyPage struct {
	onDisk   *page // nil: a hole
	versions []*page
}

// bytes is the room that the pages take.
func (d *memData) bytes() int64 { return int64(len(d.pages)) * pageSize }

func (d *memData) readAt(p []byte, off int64) (int, error) {
	if off >= d.size {
		return 0, io.EOF
	}
	var err error
	if int64(len(p)) > d.size-off {
		p, err = p[:d.size-off], io.EOF
	}
	for n := 0; n < len(p); {
		at := off + int64(n)
		pg := d.pages[at/pageSize]
		if pg == nil {
			pg = &zeroPage
		}
		n += copy(p[n:], pg[at%pageSize:])
	}
	return len(p), err
}

// writeAt writes p as far as room bytes of new pages allow (-1 = no limit). It returns the bytes
// written and the room taken.
func (d *memData) writeAt(p []byte, off, room int64) (n int, took int64) {
	for n < len(p) {
		at := off + int64(n)
		no := at / pageSize
		if d.pages[no] == nil {
			if room >= 0 && took+pageSize > room {
				break
			}
			took += pageSize
		}
		part := p[n:min(len(p), n+int(pageSize-at%pageSize))]
		d.change(no, func(pg *page) { copy(pg[at%pageSize:], part) })
		n += len(part)
	}
	if n > 0 {
		d.size = max(d.size, off+int64(n))
	}
	return n, took
}

// change replaces a page by an edited copy, remembering what the disk has.
func (d *memData) change(no int64, edit func(*page)) {
	if d.pages == nil {
		d.pages, d.dirty, d.lost = map[int64]*page{}, map[int64]*dirtyPage{}, map[int64]*page{}
	}
	old := d.pages[no]
	dp := d.dirty[no]
	if dp == nil {
		dp = &dirtyPage{onDisk: old}
		if was, ok := d.lost[no]; ok {
			// A page that is written again after a failed sync is written back whole.
			dp.onDisk = was
			dp.versions = append(dp.versions, old)
			delete(d.lost, no)
		}
		d.dirty[no] = dp
	}
	pg := new(page)
	if old != nil {
		*pg = *old
	}
	edit(pg)
	if *pg == zeroPage {
		pg = &zeroPage
	}
	d.pages[no] = pg
	if len(dp.versions) == maxVersions {
		dp.versions = slices.Delete(dp.versions, 1, 2)
	}
	dp.versions = append(dp.versions, pg)
}

// truncate returns the room taken, which is negative or 0.
func (d *memData) truncate(size int64) (took int64) {
	if size < d.size {
		for no, pg := range d.pages {
			switch first := no * pageSize; {
			case first >= size:
				d.change(no, func(pg *page) { *pg = page{} })
				delete(d.pages, no)
				took -= pageSize
			case first+pageSize > size && pg != &zeroPage:
				d.change(no, func(pg *page) { clear(pg[size-first:]) })
			}
		}
		d.low = min(d.low, size)
	}
	d.size = size
	return took
}

func (d *memData) sync() {
	clear(d.dirty)
	d.syncedSize, d.low = d.size, d.size
}

func (d *memData) loseUnsynced() {
	for no, dp := range d.dirty {
		d.lost[no] = dp.onDisk
	}
	clear(d.dirty)
}

// crash returns the contents after a power cut: each sector not synced is kept with probability keep.
func (d *memData) crash(keep float64, rng *rand.Rand) memData {
	c := memData{pages: map[int64]*page{}, dirty: map[int64]*dirtyPage{}, lost: map[int64]*page{}}
	for no, pg := range d.pages {
		c.pages[no] = pg
	}
	for no, was := range d.lost {
		c.put(no, was)
	}
	// In page order, so that a seed gives the same disk every time.
	for _, no := range sortedPages(d.dirty) {
		dp := d.dirty[no]
		now := d.pages[no]
		switch keep {
		case 0:
			c.put(no, dp.onDisk)
		case 1:
			c.put(no, now)
		default:
			c.put(no, dp.tear(keep, rng))
		}
	}
	size := d.crashSize(keep, rng)
	c.size = d.size
	for no := range c.pages {
		c.size = max(c.size, (no+1)*pageSize)
	}
	c.truncate(size)
	c.sync()
	return c
}

func (d *memData) put(no int64, pg *page) {
	if pg == nil {
		delete(d.pages, no)
	} else {
		d.pages[no] = pg
	}
}

func (dp *dirtyPage) tear(keep float64, rng *rand.Rand) *page {
	pg := new(page)
	if dp.onDisk != nil {
		*pg = *dp.onDisk
	}
	for s := 0; s < pageSize; s += sectorSize {
		if rng.Float64() >= keep {
			continue
		}
		v := dp.versions[len(dp.versions)-1]
		if rng.IntN(4) == 0 {
			v = dp.versions[rng.IntN(len(dp.versions))]
		}
		if v == nil {
			v = &zeroPage
		}
		copy(pg[s:s+sectorSize], v[s:])
	}
	return pg
}

// crashSize is the length after a power cut: the synced one, the newest, one that the file had
// between, or, as it grows by whole sectors, one on the way.
func (d *memData) crashSize(keep float64, rng *rand.Rand) int64 {
	switch {
	case keep == 1:
		return d.size
	case keep == 0 || d.size == d.syncedSize && d.low == d.size:
		return d.syncedSize
	}
	switch rng.IntN(4) {
	case 0:
		return d.syncedSize
	case 1:
		return d.low
	case 2:
		return d.size
	}
	from := min(d.low, d.size)
	return min(d.size, from+rng.Int64N(d.size-from+1)/sectorSize*sectorSize)
}

func sortedPages(m map[int64]*dirtyPage) []int64 {
	nos := make([]int64, 0, len(m))
	for no := range m {
		nos = append(nos, no)
	}
	slices.Sort(nos)
	return nos
}
