package config

import (
	"strconv"

	"github.com/policy-engine/policy-engine/config/internal/document"
)

// Fixed is the value of a key that a running kernel can't change: where it listens, and how.
type Fixed struct {
	Pos   Pos
	Value string
}

// fixed are the keys that take a restart, in their order.
func fixed(d *document.Kernel) []Fixed {
	s, t, a := &d.Server, &d.Server.TLS, &d.Admin
	address, port := string(s.Address), strconv.Itoa(s.Port)
	if s.Has("socket_path") {
		address, port = "", ""
	}
	return []Fixed{
		{Pos(s.At("address")), address},
		{Pos(s.At("port")), port},
		{Pos(s.At("socket_path")), string(s.SocketPath)},
		{Pos(s.At("transport")), string(s.Transport)},
		{Pos(s.At("max_concurrent_streams")), strconv.Itoa(s.MaxConcurrentStreams)},
		{Pos(t.At("cert_file")), t.CertFile},
		{Pos(t.At("key_file")), t.KeyFile},
		{Pos(t.At("client_ca_file")), t.ClientCAFile},
		{Pos(a.At("address")), string(a.Address)},
		{Pos(a.At("port")), strconv.Itoa(a.Port)},
	}
}

// RestartNeeded tells which keys of next a kernel that runs with k could take over only by a restart: an Errors, or nil.
func (k *Kernel) RestartNeeded(next *Kernel) error {
	var errs Errors
	for i := range min(len(k.Fixed), len(next.Fixed)) {
		if was, now := k.Fixed[i], next.Fixed[i]; was.Value != now.Value {
			errs.Add(now.Pos, "%q needs a restart; legal for a reload is %q, as it is now", now.Value, was.Value)
		}
	}
	return errs.Err()
}
