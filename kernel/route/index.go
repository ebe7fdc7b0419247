package route

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
)

// index finds a route's number by its name. A map costs three cache misses at 100,000 routes: its slot, the string that the slot points to, and the pointer to the route.
// This costs two: where the bucket begins, and the bucket, whose names lie one after the other. There are as many buckets as names, rounded up to a power of two, so
// that mostly a bucket has one name or none. The hash is seeded, so that nobody can choose names that share a bucket.
type index struct {
	seed maphash.Seed
	// shift takes the bucket's number from the upper bits of the hash.
	shift uint
	// begins has where each bucket begins in records, and at last where the last one ends.
	begins []uint32
	// records has for each name its route's number in the lower, its length in the upper half of 8 bytes, and then the name.
	records []byte
}

const recordHead = 8

// newIndex numbers the names, which are all different, from 0.
func newIndex(names []string) index {
	x := index{seed: maphash.MakeSeed()}
	hashes := make([]uint64, len(names))
	for i, name := range names {
		hashes[i] = maphash.String(x.seed, name)
	}
	x.fill(names, hashes)
	return x
}

// fill takes the hashes as a parameter for the sake of tests. It counts how long each bucket is, and then puts every name into its place.
func (x *index) fill(names []string, hashes []uint64) {
	size := 0
	for _, name := range names {
		size += recordHead + len(name)
	}
	if size > math.MaxUint32 {
		panic(fmt.Sprintf("route: the names of all routes are %d bytes long", size))
	}
	logBuckets := bits.Len(uint(max(len(names), 2) - 1))
	x.shift = uint(64 - logBuckets)
	x.begins, x.records = make([]uint32, 1<<logBuckets+1), make([]byte, size)
	for i, name := range names {
		x.begins[hashes[i]>>x.shift+1] += uint32(recordHead + len(name))
	}
	for b := 1; b < len(x.begins); b++ {
		x.begins[b] += x.begins[b-1]
	}
	next := append([]uint32(nil), x.begins...)
	for i, name := range names {
		at := &next[hashes[i]>>x.shift]
		binary.LittleEndian.PutUint64(x.records[*at:], uint64(len(name))<<32|uint64(i))
		copy(x.records[*at+recordHead:], name)
		*at += uint32(recordHead + len(name))
	}
}

// find returns the number of the name, or -1. It does not allocate, and keeps no reference to name.
func (x *index) find(name string) int { return x.findHashed(name, maphash.String(x.seed, name)) }

// findHashed is find for a hash that is known.
func (x *index) findHashed(name string, hash uint64) int {
	bucket := hash >> x.shift
	records := x.records[x.begins[bucket]:x.begins[bucket+1]]
	for len(records) >= recordHead {
		head := binary.LittleEndian.Uint64(records)
		end := recordHead + int(head>>32)
		if end == recordHead+len(name) && string(records[recordHead:end]) == name {
			return int(uint32(head))
		}
		records = records[end:]
	}
	return -1
}
