package h2

import "sync"

// Memory for long messages is shared by all connections, in sizes that have room for so many KiB and what is around them.
const (
	minShared       = 16 << 10
	sharedSizes     = 9
	messageOverhead = 4 << 10
	// maxMessageBuffer is the length of the longest message that is given its memory at once, with its prefix.
	maxMessageBuffer = minShared<<(sharedSizes-1) + messageOverhead
)

// messageBuffers are the sizes from minShared up, each twice as large as the one before: *[]byte.
var messageBuffers [sharedSizes]sync.Pool

// messageCapacity is the capacity of the buffer for a message of n bytes, at most maxMessageBuffer.
func messageCapacity(n int) int {
	size := minShared
	for size+messageOverhead < n {
		size *= 2
	}
	return size + messageOverhead
}

// shared returns the pool of buffers of that capacity; nil if they are not shared.
func shared(capacity int) *sync.Pool {
	for i := range messageBuffers {
		if minShared<<i+messageOverhead == capacity {
			return &messageBuffers[i]
		}
	}
	return nil
}

// getMessageBuffer gives an empty buffer of that capacity.
func getMessageBuffer(capacity int) []byte {
	// Fast path: a small one.
	if capacity <= minShared {
		return make([]byte, 0, capacity)
	}
	if pool := shared(capacity); pool != nil {
		if b, ok := pool.Get().(*[]byte); ok {
			return *b
		}
	}
	return make([]byte, 0, capacity)
}

// putMessageBuffer takes a buffer that nobody needs any more, if it is one of those that are shared.
func putMessageBuffer(b []byte) {
	if pool := shared(cap(b)); pool != nil {
		b = b[:0]
		pool.Put(&b)
	}
}

// sendBuffers has full buffers that were written, for all connections: *[]byte with a capacity above flushSize.
var sendBuffers sync.Pool

// getSendBuffer gives a buffer, or nil.
func getSendBuffer() []byte {
	b, ok := sendBuffers.Get().(*[]byte)
	if !ok {
		return nil
	}
	return *b
}

func putSendBuffer(b []byte) { sendBuffers.Put(&b) }
