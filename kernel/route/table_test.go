package route

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/policy-engine/policy-engine/config"
)

func tableOf(t testing.TB, generation uint64, names ...string) *Table {
	t.Helper()
	cfg := &config.Kernel{}
	for _, n := range names {
		cfg.Routes = append(cfg.Routes, config.Route{Name: n})
	}
	table, _, err := Compile(generation, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestStoreBeforeFirstSwap(t *testing.T) {
	s := NewStore(Terms{}, func(g uint64) { t.Errorf("generation %d retired, which no worker has", g) })
	table := s.Acquire()
	if table.Ready() || table.Generation() != 0 || table.Lookup("r") != nil || len(table.Routes()) != 0 {
		t.Errorf("the stand-in table is %+v", table)
	}
	s.Swap(tableOf(t, 1, "r"))
	table.Release()
	if !s.Current().Ready() || s.Current().Lookup("r") == nil {
		t.Error("the first table is not current")
	}
}

func TestRetiredWhenReplacedAndReleased(t *testing.T) {
	var retired []uint64
	s := NewStore(Terms{}, func(g uint64) { retired = append(retired, g) })
	s.Swap(tableOf(t, 1))
	idle := s.Acquire()
	idle.Release()
	if len(retired) != 0 {
		t.Fatal("retired while current")
	}
	a, b := s.Acquire(), s.Acquire()
	s.Swap(tableOf(t, 2))
	a.Release()
	if len(retired) != 0 {
		t.Fatal("retired while in use")
	}
	if got := s.Acquire(); got.Generation() != 2 {
		t.Fatalf("acquired generation %d after the swap", got.Generation())
	}
	b.Release()
	if fmt.Sprint(retired) != "[1]" {
		t.Fatalf("retired %v", retired)
	}
}

// TestAcquireThatLosesAgainstSwap goes through the two interleavings by hand: the Swap comes before the losing Acquire counts its use, or after it.
func TestAcquireThatLosesAgainstSwap(t *testing.T) {
	t.Run("before it counts", func(t *testing.T) {
		retired := 0
		s := NewStore(Terms{}, func(uint64) { retired++ })
		s.Swap(tableOf(t, 1))
		old := s.Current()
		s.Swap(tableOf(t, 2))
		if retired != 1 {
			t.Fatalf("retired %d times", retired)
		}
		if s.hold(old) {
			t.Fatal("holds a table that is retired")
		}
		if retired != 1 || old.users.Load() != 0 {
			t.Fatalf("retired %d times, %d users", retired, old.users.Load())
		}
	})
	t.Run("after it counted", func(t *testing.T) {
		retired := 0
		s := NewStore(Terms{}, func(uint64) { retired++ })
		s.Swap(tableOf(t, 1))
		old := s.Current()
		old.users.Add(1)
		s.Swap(tableOf(t, 2))
		if retired != 0 {
			t.Fatal("retired in use")
		}
		old.Release()
		if retired != 1 {
			t.Fatalf("retired %d times", retired)
		}
	})
}

func TestMisuseOfTablesPanics(t *testing.T) {
	for _, tc := range []struct {
		name   string
		misuse func(*Store, *Table)
	}{
		{"swapped in twice", func(s *Store, table *Table) { s.Swap(table) }},
		{"released more often than acquired", func(s *Store, table *Table) {
			s.Swap(tableOf(t, 2))
			table.Release()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := NewStore(Terms{}, nil)
			table := tableOf(t, 1)
			s.Swap(table)
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			tc.misuse(s, table)
		})
	}
}

// TestAcquireAgainstSwap: under any interleaving nobody holds a retired table, and each table but the last is retired exactly once.
func TestAcquireAgainstSwap(t *testing.T) {
	const generations, readers = 2000, 4
	var retired [generations + 1]atomic.Int32
	s := NewStore(Terms{}, func(g uint64) { retired[g].Add(1) })
	s.Swap(tableOf(t, 1, "r"))
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			var held *Table
			for !stop.Load() {
				table := s.Acquire()
				if retired[table.Generation()].Load() != 0 {
					t.Errorf("acquired generation %d, which is retired", table.Generation())
				}
				if table.Lookup("r") == nil {
					t.Error("route is missing")
				}
				if held != nil { // Keep one table over the acquisition of the next.
					if retired[held.Generation()].Load() != 0 {
						t.Errorf("generation %d was retired in use", held.Generation())
					}
					held.Release()
				}
				held = table
				runtime.Gosched() // Spinning readers would starve the writer on few cores.
			}
			held.Release()
		})
	}
	for g := uint64(2); g <= generations; g++ {
		s.Swap(tableOf(t, g, "r"))
		if g%16 == 0 {
			runtime.Gosched()
		}
	}
	stop.Store(true)
	wg.Wait()
	for g := 1; g < generations; g++ {
		if n := retired[g].Load(); n != 1 {
			t.Fatalf("generation %d was retired %d times", g, n)
		}
	}
	if retired[generations].Load() != 0 {
		t.Error("the current table was retired")
	}
}

func routeNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("tenant-%d-orders", i)
	}
	return names
}

func TestUseOfTableDoesNotAllocate(t *testing.T) {
	names := routeNames(10_000)
	s := NewStore(Terms{}, nil)
	s.Swap(tableOf(t, 1, names...))
	i := 0
	if allocs := testing.AllocsPerRun(1000, func() {
		table := s.Acquire()
		if table.Lookup(names[i%len(names)]) == nil || table.Lookup("unknown") != nil {
			t.Fatal("wrong route")
		}
		table.Release()
		i++
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// BenchmarkLookup is what a request does with a table, in an order of routes that no cache foresees: acquire, look up, read the plan, release.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("routes=%d", n), func(b *testing.B) {
			names := routeNames(n)
			s := NewStore(Terms{}, nil)
			s.Swap(tableOf(b, 1, names...))
			asked := newQuestions(names)
			b.ReportAllocs()
			for b.Loop() {
				table := s.Acquire()
				if r := table.Lookup(asked.next()); r == nil || len(r.Request.Headers) > 0 {
					b.Fatal("unknown")
				}
				table.Release()
			}
		})
	}
}

// BenchmarkCompile is the time to make a table, and the memory of one without policies, by route.
func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("routes=%d", n), func(b *testing.B) {
			names := routeNames(n)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			table := tableOf(b, 1, names...)
			runtime.GC()
			runtime.ReadMemStats(&after)
			for b.Loop() {
				tableOf(b, 1, names...)
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/route")
			runtime.KeepAlive(table)
		})
	}
}
