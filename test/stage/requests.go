package stage

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/policy-engine/policy-engine/test/proof"
	"github.com/policy-engine/policy-engine/test/traffic"
)

// Key is the API key that is good.
const Key = "key-of-alice-5d41402abc4b2a76b9719d911017c592"

// tokens is how many different tokens there are: some are new to a worker, some are remembered.
const tokens = 50

// Kinds are the usual requests: of ten, eight are valid and two are not. Of each way to be invalid there is one that claims more than it should with a proof of its own making.
func (s *Stage) Kinds() []*traffic.Kind {
	far := time.Now().Add(24 * time.Hour)
	var good [tokens]string
	for i := range good {
		good[i] = s.Issuer.Token(keyID, i, far)
	}
	old := s.Issuer.Token(keyID, 0, time.Now().Add(-time.Hour))
	stranger := s.Issuer.Token("unknown", 0, far)
	payload := strings.Split(good[0], ".")
	forged := payload[0] + "." + payload[1] + "." + encode64(make([]byte, 64))
	var turn atomic.Uint32
	token := func() string { return good[turn.Add(1)%tokens] }
	key := func() string { return "x-api-key: " + Key }
	fixed := func(text string) func() string { return func() string { return text } }
	// Proofs that prove nothing: made with another key, or right for another request.
	other := proof.Key("a key that is not the engine's")
	stolen := proof.Header + ": " + s.key.Of("0")
	const item, noItem = `{"item": "tea"}`, `{"item": 1}`
	return []*traffic.Kind{
		{Name: "key", Weight: 50, Write: get("/keys/1", key)},
		{Name: "key, forged proof", Weight: 4, Write: forge(get("/keys/1", key), other)},
		{Name: "key, where trouble may be", Weight: 6, Write: get("/trouble/1", key)},
		{Name: "token", Weight: 10, Write: get("/tokens/1", func() string { return "authorization: Bearer " + token() })},
		{Name: "body", Weight: 10, Write: post("/bodies/1", item, key)},
		{Name: "no key", Expect: traffic.Refuse, Weight: 3, Write: get("/keys/1", nil)},
		{Name: "no key, forged proof", Expect: traffic.Refuse, Weight: 2, Write: forge(get("/keys/1", nil), other)},
		{Name: "no key, another's proof", Expect: traffic.Refuse, Weight: 1, Write: get("/keys/1", fixed(stolen))},
		{Name: "wrong key", Expect: traffic.Refuse, Weight: 4, Write: get("/keys/1", fixed("x-api-key: "+Key+"0\r\nx-user-id: alice"))},
		{Name: "expired token", Expect: traffic.Refuse, Weight: 2, Write: get("/tokens/1", fixed("authorization: Bearer "+old))},
		{Name: "forged token", Expect: traffic.Refuse, Weight: 2, Write: get("/tokens/1", fixed("authorization: Bearer "+forged))},
		{Name: "token of a strange key", Expect: traffic.Refuse, Weight: 1, Write: get("/tokens/1", fixed("authorization: Bearer "+stranger))},
		{Name: "body that does not fit", Expect: traffic.Refuse, Weight: 2, Write: post("/bodies/1", noItem, key)},
		{Name: "body without key", Expect: traffic.Refuse, Weight: 2, Write: post("/bodies/1", item, nil)},
		{Name: "unknown route", Expect: traffic.Refuse, Weight: 1, Write: get("/elsewhere", key)},
	}
}

// Troubles are requests that make a policy fail, in the way that the header says, once in so many of the usual ones.
func Troubles(what string, weight int) *traffic.Kind {
	return &traffic.Kind{
		Name: "trouble: " + what, Expect: traffic.Refuse, Weight: weight,
		Write: get("/trouble/1", func() string { return "x-api-key: " + Key + "\r\nx-trouble: " + what }),
	}
}

// Body are requests with a body of at least that size, which fits the schema; whether it is small enough is what fits says.
func Body(name string, size int, fits bool, weight int) *traffic.Kind {
	body := fmt.Sprintf(`{"item": %q}`, strings.Repeat("x", size))
	expect := traffic.Refuse
	if fits {
		expect = traffic.Pass
	}
	return &traffic.Kind{Name: name, Expect: expect, Weight: weight, Write: post("/bodies/1", body, func() string { return "x-api-key: " + Key })}
}

const head = "Host: faults.example\r\n" + proof.IDHeader + ": "

// get writes a request with a line of the header, if there is one.
func get(path string, line func() string) func(dst []byte, id string) []byte {
	return func(dst []byte, id string) []byte {
		dst = append(dst, "GET "+path+" HTTP/1.1\r\n"+head+id+"\r\n"...)
		return append(appendLine(dst, line), "\r\n"...)
	}
}

func post(path, body string, line func() string) func(dst []byte, id string) []byte {
	return func(dst []byte, id string) []byte {
		dst = append(dst, "POST "+path+" HTTP/1.1\r\nContent-Type: application/json\r\n"+head+id+"\r\n"...)
		dst = fmt.Appendf(dst, "Content-Length: %d\r\n", len(body))
		return append(append(appendLine(dst, line), "\r\n"...), body...)
	}
}

func appendLine(dst []byte, line func() string) []byte {
	if line == nil {
		return dst
	}
	return append(append(dst, line()...), "\r\n"...)
}

// forge adds a proof that was made with another key.
func forge(write func(dst []byte, id string) []byte, key proof.Key) func(dst []byte, id string) []byte {
	return func(dst []byte, id string) []byte {
		dst = write(dst, id)
		return append(append(dst[:len(dst)-2], proof.Header+": "+key.Of(id)+"\r\n"...), "\r\n"...)
	}
}
