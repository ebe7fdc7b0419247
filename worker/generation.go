package worker

import (
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	workerv1 "github.com/policy-engine/policy-engine/api/worker/v1"
	"github.com/policy-engine/policy-engine/worker/chain"
)

// lease is how long a kernel's generations are kept when nothing is heard of it.
const lease = time.Minute

// generation is the chains of one push. It lives until it is retired and no call runs on it.
type generation struct {
	id     uint64
	kernel *kernel
	chains map[uint32]*chain.Chain
	// owned headers are reported to the kernel with each answer to a push of the generation.
	owned []*workerv1.OwnedHeaders

	log     *slog.Logger
	shared  *sharedValues
	closers []closer

	mu    sync.Mutex // guards using
	using map[sharedKey]*sharedValue

	holds atomic.Int64 // one of the table, one for each call
	freed chan struct{}
}

// closer is a policy instance that wants to be closed.
type closer struct {
	policy   string
	instance io.Closer
}

// kernel is a kernel that pushed generations.
type kernel struct {
	id    uint64
	heard atomic.Int64 // in Unix seconds: when it was heard of last
}

func (k *kernel) renew(now time.Time) {
	// A store only when it changes something: calls do this too.
	if s := now.Unix(); k.heard.Load() != s {
		k.heard.Store(s)
	}
}

// acquire holds the generation, unless it is being freed.
func (g *generation) acquire() bool {
	for {
		n := g.holds.Load()
		if n == 0 {
			return false
		}
		if g.holds.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release gives up a hold. The last one frees the generation, on a goroutine because policies may take long to close.
func (g *generation) release() {
	if g.holds.Add(-1) == 0 {
		go g.free()
	}
}

// free closes all instances, and the shared values that no other generation uses. Nobody holds the generation.
func (g *generation) free() {
	for _, c := range slices.Backward(g.closers) {
		guardedClose(g.log, c.policy, c.instance)
	}
	g.mu.Lock()
	using := g.using
	g.using = nil // Env.Shared is an error from now on.
	g.mu.Unlock()
	for _, v := range using {
		g.shared.drop(v)
	}
	close(g.freed)
}

var errFreed = errors.New("open shared value: the policy's generation has been retired")

// sharedValue returns what the generation uses under the key, nil if it uses nothing yet.
func (g *generation) sharedValue(k sharedKey) (*sharedValue, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.using == nil {
		return nil, errFreed
	}
	return g.using[k], nil
}

// keep notes that the generation uses v, which was counted for it. It tells whether that was one time too many: the generation uses v
// already (then somebody was faster, and v is the same: it stays as long as it is used), or has been freed.
func (g *generation) keep(k sharedKey, v *sharedValue) (extra bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.using == nil {
		return true, errFreed
	}
	if g.using[k] != nil {
		return true, nil
	}
	g.using[k] = v
	return false, nil
}

// generations are all that the worker holds. Lookup takes no lock.
type generations struct {
	now   func() time.Time
	table atomic.Pointer[map[uint64]*generation]

	mu      sync.Mutex // guards changes of table, and kernels
	kernels map[uint64]*kernel
	closed  bool
}

func newGenerations(now func() time.Time) *generations {
	g := &generations{now: now, kernels: make(map[uint64]*kernel)}
	g.table.Store(&map[uint64]*generation{})
	return g
}

// get returns the generation, nil if there is none.
func (g *generations) get(id uint64) *generation { return (*g.table.Load())[id] }

// count is how many there are.
func (g *generations) count() int { return len(*g.table.Load()) }

// add makes a generation of the kernel known, unless the worker stops.
func (g *generations) add(kernelID uint64, new *generation) (ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	new.kernel = g.kernelLocked(kernelID)
	table := maps.Clone(*g.table.Load())
	table[new.id] = new
	g.table.Store(&table)
	return true
}

func (g *generations) kernelLocked(id uint64) *kernel {
	k := g.kernels[id]
	if k == nil {
		k = &kernel{id: id}
		g.kernels[id] = k
	}
	k.renew(g.now())
	return k
}

// renew notes that the kernel was heard of, and returns its generations, sorted.
func (g *generations) renew(kernelID uint64) []uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if k := g.kernels[kernelID]; k != nil {
		k.renew(g.now())
	}
	var ids []uint64
	for id, gen := range *g.table.Load() {
		if gen.kernel.id == kernelID {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// retire takes generations out of the table and gives up the table's hold on them. It returns those that were there.
func (g *generations) retire(which func(*generation) bool) []*generation {
	g.mu.Lock()
	defer g.mu.Unlock()
	table := maps.Clone(*g.table.Load())
	var out []*generation
	for id, gen := range table {
		if which(gen) {
			delete(table, id)
			out = append(out, gen)
		}
	}
	if len(out) == 0 {
		return nil
	}
	g.table.Store(&table)
	for _, gen := range out {
		gen.release()
	}
	return out
}

// expire retires the generations of kernels whose lease has ended, and returns them.
func (g *generations) expire() []*generation {
	oldest := g.now().Add(-lease).Unix()
	g.mu.Lock()
	gone := make(map[*kernel]bool)
	for id, k := range g.kernels {
		if k.heard.Load() < oldest {
			gone[k] = true
			delete(g.kernels, id)
		}
	}
	g.mu.Unlock()
	if len(gone) == 0 {
		return nil
	}
	return g.retire(func(gen *generation) bool { return gone[gen.kernel] })
}

// close retires all generations, and takes no more.
func (g *generations) close() []*generation {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	return g.retire(func(*generation) bool { return true })
}
