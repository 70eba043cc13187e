package meta

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"math/bits"
)

// bbolt maps its file, has no checksum over its pages, and follows each of them as it stands: one flipped bit can send
// it round in circles or to the contents of another page. So the file is read here first, by a reader of our own that trusts nothing:
// every page at most once, every length held against its page. It only reads, so it also serves an inspector of a running node.
//
// A page is a header and elements, all little endian on the machines that weir runs on:
//
//	u64 id | u16 flags | u16 count | u32 pages that it is longer than one
//	branch element: u32 position of the key from here | u32 key length | u64 page of the child
//	leaf element:   u32 flags (1: the value is a bucket) | u32 position | u32 key length | u32 value length
//	bucket:         u64 root page, 0: the page follows right here | u64 sequence
//	meta, after its header: u32 magic | u32 version | u32 page size | u32 flags | bucket | u64 free list | u64 pages | u64 transaction | u64 FNV-1a
//
// bbolt lays the keys and values of a page out without a gap, in the order of the elements. Together with the checksums of our own
// values this leaves no bit of what is in use that could change unseen.

const (
	pageHeaderSize  = 16
	elementSize     = 16
	bucketSize      = 16
	metaSize        = 64
	pageBranch      = 1
	pageLeaf        = 2
	pageFree        = 16
	elementBucket   = 1
	boltMagic       = 0xED0CDAED
	boltVersion     = 2
	noFreeList      = 1<<64 - 1
	manyFree        = 1<<16 - 1 // as a count: the number stands in front of the list
	minPageSize     = 1 << 10
	maxPageSize     = 1 << 24
	maxTreeDepth    = 32
	newFileTxid     = 1 // of a file that bbolt has made and nobody has written to
	restoreMetadata = "restore raft/ from a backup"
)

// damageError is what a reader of raft.db cannot accept; it says where.
type damageError struct{ what string }

func (e damageError) Error() string { return "the file is damaged: " + e.what + ": " + restoreMetadata }

func damagef(format string, args ...any) error { return damageError{fmt.Sprintf(format, args...)} }

// boltMeta is the head of one state of the file. The one with the greater transaction is the newest.
type boltMeta struct {
	pageSize, root, freeList, pages, txid uint64
}

func parseBoltMeta(b []byte) (boltMeta, bool) {
	u32, u64 := binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8])
	ok := u32(b) == boltMagic && u32(b[4:]) == boltVersion && u64(b[metaSize-8:]) == sum.Sum64()
	return boltMeta{pageSize: uint64(u32(b[8:])), root: u64(b[16:]), freeList: u64(b[32:]), pages: u64(b[40:]), txid: u64(b[48:])}, ok
}

// boltFile reads one state of a bbolt file.
type boltFile struct {
	boltMeta
	r    io.ReaderAt
	used []uint64 // a bit for each page that was met
}

// openBolt reads the newest state's head. Like bbolt it goes back to the state before where the newest head was torn
// by a power cut: what it stands for was never acknowledged. A head that a single bit makes whole was not torn; it has rotted.
func openBolt(r io.ReaderAt, size int64) (*boltFile, error) {
	var newest, older boltMeta
	var rotten []boltMeta
	whole := 0
	pageSize, err := boltPageSize(r, size)
	if err != nil {
		return nil, err
	}
	for _, at := range []int64{0, pageSize} {
		head := make([]byte, metaSize)
		if _, err := r.ReadAt(head, at+pageHeaderSize); err != nil {
			return nil, fmt.Errorf("read page %d: %w", at/pageSize, err)
		}
		if m, ok := parseBoltMeta(head); ok {
			whole++
			if older = m; older.txid >= newest.txid {
				newest, older = older, newest
			}
		} else if m, ok := mendBit(head); ok {
			rotten = append(rotten, m)
		}
	}
	for _, m := range rotten {
		if whole == 0 || m.txid > newest.txid {
			return nil, damagef("the head of its newest state, page %d, has a wrong bit", m.txid%2)
		}
	}
	b := &boltFile{boltMeta: newest, r: r}
	switch {
	case b.pageSize != uint64(pageSize):
		return nil, damagef("its heads give page sizes %d and %d", b.pageSize, pageSize)
	case b.pages < 3 || b.pages > uint64(size)/b.pageSize:
		return nil, damagef("it should have %d pages of %d bytes and has %d bytes", b.pages, b.pageSize, size)
	}
	b.used = make([]uint64, (b.pages+63)/64)
	return b, nil
}

// boltPageSize takes the page size from the first head that is whole; the place of the second depends on it.
func boltPageSize(r io.ReaderAt, size int64) (int64, error) {
	head := make([]byte, metaSize)
	for at := int64(0); at <= maxPageSize && at+pageHeaderSize+metaSize <= size; at = max(minPageSize, 2*at) {
		if _, err := r.ReadAt(head, at+pageHeaderSize); err != nil {
			return 0, fmt.Errorf("read at %d: %w", at, err)
		}
		if m, ok := parseBoltMeta(head); ok && (at == 0 || m.pageSize == uint64(at)) {
			if m.pageSize < minPageSize || m.pageSize > maxPageSize || bits.OnesCount64(m.pageSize) != 1 || 2*int64(m.pageSize) > size {
				return 0, damagef("a page size of %d in a file of %d bytes", m.pageSize, size)
			}
			return int64(m.pageSize), nil
		}
	}
	return 0, damagef("neither of its heads is whole")
}

func mendBit(head []byte) (m boltMeta, ok bool) {
	for i := range 8 * len(head) {
		head[i/8] ^= 1 << (i % 8)
		if m, ok = parseBoltMeta(head); ok {
			return m, true
		}
		head[i/8] ^= 1 << (i % 8)
	}
	return m, false
}

// walk reads every page of the state and calls visit for each value, in order of its key within its bucket. The slices
// are valid during the call. It ends for any contents: no page is read twice.
func (b *boltFile) walk(visit func(bucket, key, value []byte) error) error {
	if b.freeList != noFreeList {
		if err := b.readFreeList(); err != nil {
			return err
		}
	}
	return b.tree(b.root, span{}, 0, func(flags uint32, name, value []byte) error {
		if flags != elementBucket {
			return damagef("%q stands outside of any bucket", name)
		}
		return b.bucket(name, value, visit)
	})
}

func (b *boltFile) bucket(name, head []byte, visit func(bucket, key, value []byte) error) error {
	if len(head) < bucketSize {
		return damagef("bucket %q has a head of %d bytes", name, len(head))
	}
	each := func(flags uint32, key, value []byte) error {
		if flags != 0 {
			return damagef("bucket %q holds another bucket", name)
		}
		return visit(name, key, value)
	}
	if err := visit(name, nil, nil); err != nil {
		return err
	}
	if root := binary.LittleEndian.Uint64(head); root != 0 {
		return b.tree(root, span{}, 0, each)
	}
	page := head[bucketSize:]
	where := fmt.Sprintf("bucket %q", name)
	if len(page) < pageHeaderSize || binary.LittleEndian.Uint16(page[8:]) != pageLeaf {
		return damagef("%s holds no page of values", where)
	}
	end, err := b.leaf(page, where, span{}, each)
	if err == nil && end != len(page) {
		err = damagef("%s has %d bytes, its values take %d", where, len(page), end)
	}
	return err
}

func (b *boltFile) readFreeList() error {
	page, err := b.page(b.freeList, pageFree)
	if err != nil {
		return err
	}
	n, list := uint64(binary.LittleEndian.Uint16(page[10:])), page[pageHeaderSize:]
	if n == manyFree {
		n, list = binary.LittleEndian.Uint64(list), list[8:]
	}
	if n > uint64(len(list))/8 {
		return damagef("page %d lists %d free pages and has room for %d", b.freeList, n, len(list)/8)
	}
	var last uint64
	for ; n > 0; n, list = n-1, list[8:] {
		id := binary.LittleEndian.Uint64(list)
		if id <= last {
			return damagef("page %d lists free page %d after %d", b.freeList, id, last)
		}
		if err := b.claim(id, 1); err != nil {
			return err
		}
		last = id
	}
	return nil
}

// claim notes that n pages from id on are met, which must happen once.
func (b *boltFile) claim(id, n uint64) error {
	if id < 2 || id >= b.pages || n > b.pages-id {
		return damagef("it names page %d, and has pages 2 to %d", id, b.pages-1)
	}
	for ; n > 0; id, n = id+1, n-1 {
		if b.used[id/64]&(1<<(id%64)) != 0 {
			return damagef("page %d is named twice", id)
		}
		b.used[id/64] |= 1 << (id % 64)
	}
	return nil
}

// page reads page id, which must be of one of the kinds in flags.
func (b *boltFile) page(id uint64, flags uint16) ([]byte, error) {
	if err := b.claim(id, 1); err != nil {
		return nil, err
	}
	page := make([]byte, b.pageSize)
	if _, err := b.r.ReadAt(page, int64(id*b.pageSize)); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	kind := binary.LittleEndian.Uint16(page[8:])
	if own := binary.LittleEndian.Uint64(page); own != id {
		return nil, damagef("page %d says that it is page %d", id, own)
	}
	if kind&flags == 0 || bits.OnesCount16(kind) != 1 {
		return nil, damagef("page %d is of kind %d", id, kind)
	}
	more := uint64(binary.LittleEndian.Uint32(page[12:]))
	if more == 0 {
		return page, nil
	}
	if id+1+more > b.pages {
		return nil, damagef("page %d goes on for %d pages, and the file has %d", id, more, b.pages)
	}
	if err := b.claim(id+1, more); err != nil {
		return nil, err
	}
	page = append(page, make([]byte, more*b.pageSize)...)
	if _, err := b.r.ReadAt(page[b.pageSize:], int64((id+1)*b.pageSize)); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	return page, nil
}

// span is what the keys of a subtree must lie in: [from, to). A nil end is open.
type span struct{ from, to []byte }

func (s span) holds(key []byte) bool {
	return bytes.Compare(key, s.from) >= 0 && (s.to == nil || bytes.Compare(key, s.to) < 0)
}

func (b *boltFile) tree(id uint64, in span, depth int, each func(flags uint32, key, value []byte) error) error {
	if depth > maxTreeDepth {
		return damagef("page %d lies more than %d levels deep", id, maxTreeDepth)
	}
	page, err := b.page(id, pageBranch|pageLeaf)
	if err != nil {
		return err
	}
	where := fmt.Sprintf("page %d", id)
	if none := binary.LittleEndian.Uint16(page[10:]) == 0; none && b.txid > newFileTxid {
		return damagef("%s is empty", where) // bbolt drops such a page, and puts an empty bucket inline
	}
	if binary.LittleEndian.Uint16(page[8:]) == pageLeaf {
		_, err := b.leaf(page, where, in, each)
		return err
	}
	var keys [][]byte
	var children []uint64
	_, err = elements(page, where, func(e []byte) (uint64, uint64) {
		children = append(children, binary.LittleEndian.Uint64(e[8:]))
		return uint64(binary.LittleEndian.Uint32(e)), uint64(binary.LittleEndian.Uint32(e[4:]))
	}, func(_ int, key []byte) error {
		keys = append(keys, key)
		return nil
	})
	if err != nil {
		return err
	}
	for i, child := range children {
		sub := span{from: keys[i], to: in.to}
		if i+1 < len(keys) {
			sub.to = keys[i+1]
		}
		if !in.holds(keys[i]) || sub.to != nil && bytes.Compare(keys[i], sub.to) >= 0 {
			return damagef("key %d of %s is out of order", i, where)
		}
		if err := b.tree(child, sub, depth+1, each); err != nil {
			return err
		}
	}
	return nil
}

// leaf gives each value of a page to each, and returns where the last one ends.
func (b *boltFile) leaf(page []byte, where string, in span, each func(flags uint32, key, value []byte) error) (end int, err error) {
	var flags, keySizes []uint32
	return elements(page, where, func(e []byte) (uint64, uint64) {
		u32 := binary.LittleEndian.Uint32
		flags, keySizes = append(flags, u32(e)), append(keySizes, u32(e[8:]))
		return uint64(u32(e[4:])), uint64(u32(e[8:])) + uint64(u32(e[12:]))
	}, func(i int, data []byte) error {
		if flags[i] > elementBucket || uint64(keySizes[i]) > uint64(len(data)) {
			return damagef("value %d of %s has flags %d and a key of %d bytes", i, where, flags[i], keySizes[i])
		}
		key, value := data[:keySizes[i]], data[keySizes[i]:]
		if len(key) == 0 || !in.holds(key) || in.from != nil && i > 0 && bytes.Equal(key, in.from) {
			return damagef("key %d of %s is out of order", i, where)
		}
		in.from = key // the next one is greater
		return each(flags[i], key, value)
	})
}

// elements cuts the data of a page into what its elements stand for. head tells where an element's data begins, from
// the element on, and how long it is.
func elements(page []byte, where string, head func(element []byte) (position, size uint64), data func(i int, b []byte) error) (end int, err error) {
	count := int(binary.LittleEndian.Uint16(page[10:]))
	at := uint64(pageHeaderSize + count*elementSize)
	if at > uint64(len(page)) {
		return 0, damagef("%s has room for %d elements, and says it has %d", where, len(page)/elementSize, count)
	}
	for i := range count {
		from := uint64(pageHeaderSize + i*elementSize)
		position, size := head(page[from : from+elementSize])
		if from+position != at || size > uint64(len(page))-at {
			return 0, damagef("element %d of %s begins at %d and has %d bytes, and should begin at %d", i, where, from+position, size, at)
		}
		if err := data(i, page[at:at+size]); err != nil {
			return 0, err
		}
		at += size
	}
	return int(at), nil
}
