package reload

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/policy-engine/policy-engine/loadtest/credentials"
	"github.com/policy-engine/policy-engine/loadtest/rig"
)

const (
	// maxOpen is the most streams under way; it bounds the memory of a run against an engine that has stopped.
	maxOpen = 1 << 15
	// window is what the engine may send without being given more: Envoy's of a connection.
	window = 256 << 20
	// acknowledge is after how many bytes it is given back.
	acknowledge = 1 << 20
	// drainTimeout is for what is under way at the end; a request that takes longer is lost.
	drainTimeout = 10 * time.Second
)

// streams holds a rate of streams on one connection to the kernel, as one worker thread of Envoy has it.
type streams struct {
	conn         net.Conn
	out          *bufio.Writer
	send         *http2.Framer
	receive      *http2.Framer
	meta         *metadata
	good, forged [][]byte
	routes       int
	account      *account

	writing sync.Mutex // of send and out: the reader answers SETTINGS and PINGs
	mu      sync.Mutex
	places  [maxOpen]stream // by id
	open    int
	room    int           // how many bytes of DATA the engine takes
	given   chan struct{} // something of room or open has changed
	unacked int
}

// stream is a request under way.
type stream struct {
	id     uint32 // 0: the place is free
	number int
	due    time.Time
	wrong  string // with its answer
	judged bool
}

// dial connects to the kernel as Envoy does.
func dial(ctx context.Context, address string, routes int, c *credentials.Set, a *account) (*streams, error) {
	good, forged, err := messages(c)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect to the kernel: %w", err)
	}
	out := bufio.NewWriterSize(conn, 64<<10)
	s := &streams{
		conn: conn, out: out, send: http2.NewFramer(out, nil), receive: http2.NewFramer(nil, bufio.NewReaderSize(conn, 64<<10)),
		meta: newMetadata(), good: good, forged: forged, routes: routes, account: a,
		room: 65535, given: make(chan struct{}, 1), // RFC 9113 section 6.9.2.
	}
	s.receive.SetReuseFrames()
	s.receive.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err = out.WriteString(http2.ClientPreface)
	err = errors.Join(err, s.send.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 16 << 20}),
		s.send.WriteWindowUpdate(0, window-65535), out.Flush())
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect to the kernel: %w", err)
	}
	return s, nil
}

// hold sends rate requests a second for the duration, and returns when the last one has ended. What is wrong with a request goes to the account; an error is of the connection.
func (s *streams) hold(ctx context.Context, rate int, duration time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var reader sync.WaitGroup
	reader.Go(func() {
		if err := s.read(); err != nil {
			cancel(err)
		}
	})
	defer reader.Wait()
	defer s.conn.Close()
	if err := s.sendAll(ctx, rate, duration); err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	late := time.NewTimer(drainTimeout)
	defer late.Stop()
	for {
		s.mu.Lock()
		open := s.open
		s.mu.Unlock()
		if open == 0 {
			return nil
		}
		select {
		case <-s.given:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late.C:
			for range open {
				s.account.fail(fmt.Sprintf("no answer within %v", drainTimeout))
			}
			return nil
		}
	}
}

func (s *streams) sendAll(ctx context.Context, rate int, duration time.Duration) error {
	start, interval := time.Now(), time.Second/time.Duration(rate)
	for n := 0; ; n++ {
		due := start.Add(time.Duration(n) * interval)
		if due.Sub(start) >= duration {
			return s.flush()
		}
		if wait := time.Until(due); wait > 0 {
			if err := s.flush(); err != nil {
				return err
			}
			sleep(wait)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.request(ctx, n, due); err != nil {
			return err
		}
	}
}

// sleep is time.Sleep, to the tenth of a millisecond; the runtime's timers are as exact as a millisecond when nothing else runs.
func sleep(d time.Duration) {
	ts := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&ts, nil) // A signal ends it early; then the request is a little early.
}

func (s *streams) flush() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.out.Flush()
}

// request opens the stream of the request of that number.
func (s *streams) request(ctx context.Context, n int, due time.Time) error {
	client, id := n%len(s.good), uint32(2*n+1)
	body := s.good[client]
	if bad(n) {
		body = s.forged[client]
	}
	if err := s.reserve(ctx, id, n, len(body), due); err != nil {
		return err
	}
	block, err := s.meta.block(rig.RouteName(route(n, s.routes)))
	if err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.send.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true}); err != nil {
		return fmt.Errorf("write to the kernel: %w", err)
	}
	if err := s.send.WriteData(id, false, body); err != nil {
		return fmt.Errorf("write to the kernel: %w", err)
	}
	return nil
}

// reserve waits until there is room for a stream.
func (s *streams) reserve(ctx context.Context, id uint32, n, size int, due time.Time) error {
	for {
		s.mu.Lock()
		place := &s.places[id/2%maxOpen]
		if place.id == 0 && s.room >= size {
			*place = stream{id: id, number: n, due: due}
			s.open++
			s.room -= size
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		if err := s.flush(); err != nil {
			return err
		}
		select {
		case <-s.given:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(drainTimeout):
			return fmt.Errorf("the kernel has taken nothing for %v", drainTimeout)
		}
	}
}

// read takes frames until the connection ends.
func (s *streams) read() error {
	for {
		f, err := s.receive.ReadFrame()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		var of http2.StreamError
		if err != nil && !errors.As(err, &of) {
			return fmt.Errorf("read from the kernel: %w", err)
		}
		if err != nil {
			err = s.end(of.StreamID, "an illegal frame: "+of.Error())
		} else {
			err = s.frame(f)
		}
		if err != nil {
			return err
		}
	}
}

func (s *streams) frame(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		return s.reply(func() error { return s.send.WriteSettingsAck() })
	case *http2.PingFrame:
		if f.IsAck() {
			return nil
		}
		return s.reply(func() error { return s.send.WritePing(true, f.Data) })
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			s.mu.Lock()
			s.room += int(f.Increment)
			s.mu.Unlock()
			s.tell()
		}
	case *http2.DataFrame:
		return s.data(f)
	case *http2.MetaHeadersFrame:
		if f.StreamEnded() {
			return s.trailers(f)
		}
	case *http2.RSTStreamFrame:
		if !s.isOpen(f.StreamID) {
			return nil // A stream that has ended, which the kernel forgets rather than wait for this side's end of it.
		}
		return s.end(f.StreamID, "reset: "+f.ErrCode.String())
	case *http2.GoAwayFrame:
		return fmt.Errorf("the kernel ends the connection: %v %q", f.ErrCode, f.DebugData())
	}
	return nil
}

func (s *streams) reply(write func() error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := errors.Join(write(), s.out.Flush()); err != nil {
		return fmt.Errorf("write to the kernel: %w", err)
	}
	return nil
}

// tell wakes who waits.
func (s *streams) tell() {
	select {
	case s.given <- struct{}{}:
	default:
	}
}

func (s *streams) place(id uint32) *stream {
	if p := &s.places[id/2%maxOpen]; p.id == id && id != 0 {
		return p
	}
	return nil
}

func (s *streams) isOpen(id uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.place(id) != nil
}

// data judges an answer.
func (s *streams) data(f *http2.DataFrame) error {
	s.mu.Lock()
	if p := s.place(f.StreamID); p != nil {
		if p.judged {
			p.wrong = "two answers"
		} else {
			p.judged, p.wrong = true, judge(f.Data(), p.number%len(s.good), bad(p.number))
		}
	}
	s.unacked += int(f.Length)
	n := s.unacked
	if n >= acknowledge {
		s.unacked = 0
	}
	s.mu.Unlock()
	if n < acknowledge {
		return nil
	}
	return s.reply(func() error { return s.send.WriteWindowUpdate(0, uint32(n)) })
}

// trailers end a stream. A request has passed only with grpc-status 0.
func (s *streams) trailers(f *http2.MetaHeadersFrame) error {
	status := "missing"
	for _, field := range f.Fields {
		if field.Name == "grpc-status" {
			status = field.Value
		}
	}
	wrong := ""
	if status != "0" {
		wrong = "grpc-status " + status
	}
	return s.end(f.StreamID, wrong)
}

// end takes down what became of a stream. Envoy resets a stream that has ended before its own end (RFC 9113 section 8.1), and so does this.
func (s *streams) end(id uint32, wrong string) error {
	at := time.Now()
	s.mu.Lock()
	p := s.place(id)
	if p == nil {
		s.mu.Unlock()
		return fmt.Errorf("the kernel ends stream %d, which is not open", id)
	}
	ended := *p
	*p = stream{}
	s.open--
	s.mu.Unlock()
	s.tell()
	switch {
	case wrong != "":
	case ended.wrong != "":
		wrong = ended.wrong
	case !ended.judged:
		wrong = "the stream ended without an answer"
	}
	if wrong != "" {
		s.account.fail(wrong)
	} else {
		s.account.answered(ended.due, at, bad(ended.number))
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.send.WriteRSTStream(id, http2.ErrCodeNo); err != nil { // It leaves with the next request.
		return fmt.Errorf("write to the kernel: %w", err)
	}
	return nil
}
