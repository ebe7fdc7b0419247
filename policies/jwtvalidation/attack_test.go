package jwtvalidation

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/lestrrat-go/jwx/v3/jwk"

	"github.com/policy-engine/policy-engine/policies"
)

// header is a header of a token, as text.
func header(members string) string { return `{"alg":"RS256","kid":"rsa"` + members + `}` }

var payload = string(must(json.Marshal(claims(nil))))

// resign signs with the issuer's own RSA key: what is wrong with such a token is never its signature.
func resign(header, payload string) string { return sign("RS256", header, payload, rsaKey) }

// raw signs segments as they stand, encoded or not.
func raw(head, body string) string {
	input := head + "." + body
	digest := sha256.Sum256([]byte(input))
	return input + "." + b64(string(must(rsaKey.Sign(rand.Reader, digest[:], crypto.SHA256))))
}

// Everything here is refused, by a policy that takes all algorithms; the reason shows that it is for the cause under test.
func TestAttacks(t *testing.T) {
	good := newToken(nil)
	parts := strings.Split(good, ".")
	der := must(x509.MarshalPKIXPublicKey(rsaKey.Public()))
	pemKey := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	embedded := string(must(json.Marshal(must(jwk.Import(otherRSA.Public())))))
	es := signClaims("ES256", m{"kid": "p256"}, claims(nil), p256)
	esInput := es[:strings.LastIndexByte(es, '.')]
	esDigest := sha256.Sum256([]byte(esInput))
	esSignature := must(base64.RawURLEncoding.DecodeString(es[len(esInput)+1:]))

	tests := map[string]struct{ token, want string }{
		"alg none, no signature":       {b64(`{"alg":"none"}`) + "." + b64(payload) + ".", "token_malformed"},
		"alg none, with a signature":   {resign(`{"alg":"none","kid":"rsa"}`, payload), "token_algorithm"},
		"alg None":                     {resign(`{"alg":"None","kid":"rsa"}`, payload), "token_algorithm"},
		"alg empty":                    {resign(`{"alg":"","kid":"rsa"}`, payload), "token_algorithm"},
		"alg in lower case":            {resign(`{"alg":"rs256","kid":"rsa"}`, payload), "token_algorithm"},
		"alg null":                     {resign(`{"alg":null,"kid":"rsa"}`, payload), "token_malformed"},
		"alg missing":                  {resign(`{"kid":"rsa"}`, payload), "token_malformed"},
		"alg as a list":                {resign(`{"alg":["RS256"],"kid":"rsa"}`, payload), "token_malformed"},
		"HS256 with the public key":    {sign("HS256", `{"alg":"HS256","kid":"rsa"}`, payload, der), "token_algorithm"},
		"HS256 with the key as PEM":    {sign("HS256", `{"alg":"HS256","kid":"rsa"}`, payload, pemKey), "token_algorithm"},
		"RS256 said, HS256 signed":     {sign("HS256", header(""), payload, pemKey), "token_signature"},
		"RS256 said, PS256 signed":     {sign("PS256", header(""), payload, rsaKey), "token_signature"},
		"RS256 said, RS512 signed":     {sign("RS512", header(""), payload, rsaKey), "token_signature"},
		"RS256 of a key for PS256":     {sign("RS256", `{"alg":"RS256","kid":"ps-only"}`, payload, otherRSA), "token_key"},
		"ES256 with the RSA key's kid": {sign("ES256", `{"alg":"ES256","kid":"rsa"}`, payload, p256), "token_key"},
		"RS256 with the EC key's kid":  {sign("RS256", `{"alg":"RS256","kid":"p256"}`, payload, rsaKey), "token_key"},
		"ES256 with the P-384 key":     {sign("ES256", `{"alg":"ES256","kid":"p384"}`, payload, p256), "token_key"},
		"signed by another key":        {sign("RS256", header(""), payload, otherRSA), "token_signature"},

		"kid path":           {resign(`{"alg":"RS256","kid":"../../dev/null"}`, payload), "token_key"},
		"kid with SQL":       {resign(`{"alg":"RS256","kid":"rsa' OR '1'='1"}`, payload), "token_key"},
		"kid with a NUL":     {resign(`{"alg":"RS256","kid":"rsa\u0000"}`, payload), "token_key"},
		"kid in capitals":    {resign(`{"alg":"RS256","kid":"RSA"}`, payload), "token_key"},
		"kid empty":          {resign(`{"alg":"RS256","kid":""}`, payload), "token_malformed"},
		"kid null":           {resign(`{"alg":"RS256","kid":null}`, payload), "token_malformed"},
		"kid as a number":    {resign(`{"alg":"RS256","kid":1}`, payload), "token_malformed"},
		"kid as a list":      {resign(`{"alg":"RS256","kid":["rsa"]}`, payload), "token_malformed"},
		"kid of another one": {resign(`{"alg":"RS256","kid":"ed"}`, payload), "token_key"},

		"embedded jwk":          {sign("RS256", header(`,"jwk":`+embedded), payload, otherRSA), "token_signature"},
		"embedded jwk, no kid":  {sign("RS256", `{"alg":"RS256","jwk":`+embedded+`}`, payload, otherRSA), "token_signature"},
		"jku":                   {sign("RS256", header(`,"jku":"https://evil.example/jwks.json"`), payload, otherRSA), "token_signature"},
		"x5u":                   {sign("RS256", header(`,"x5u":"https://evil.example/cert.pem"`), payload, otherRSA), "token_signature"},
		"x5c":                   {sign("RS256", header(`,"x5c":["`+base64.StdEncoding.EncodeToString(der)+`"]`), payload, otherRSA), "token_signature"},
		"crit":                  {resign(header(`,"crit":["exp"],"exp":1`), payload), "token_malformed"},
		"crit empty":            {resign(header(`,"crit":[]`), payload), "token_malformed"},
		"crit null":             {resign(header(`,"crit":null`), payload), "token_malformed"},
		"b64 false":             {resign(header(`,"b64":false,"crit":["b64"]`), payload), "token_malformed"},
		"b64 alone":             {resign(header(`,"b64":true`), payload), "token_malformed"},
		"typ of a logout token": {resign(header(`,"typ":"logout+jwt"`), payload), "token_type"},
		"typ as a number":       {resign(header(`,"typ":1`), payload), "token_malformed"},
		"typ null":              {resign(header(`,"typ":null`), payload), "token_malformed"},
		"typ empty":             {resign(header(`,"typ":""`), payload), "token_type"},

		"alg twice":               {resign(`{"alg":"RS256","kid":"rsa","alg":"none"}`, payload), "token_malformed"},
		"alg twice, escaped":      {resign(`{"alg":"RS256","kid":"rsa","\u0061lg":"none"}`, payload), "token_malformed"},
		"kid twice":               {resign(`{"alg":"RS256","kid":"rsa","kid":"rsa"}`, payload), "token_malformed"},
		"sub twice":               {resign(header(""), payload[:len(payload)-1]+`,"sub":"admin"}`), "token_malformed"},
		"repeated deep inside":    {resign(header(""), payload[:len(payload)-1]+`,"a":[{"b":1,"b":2}]}`), "token_malformed"},
		"exp in capitals":         {resign(header(""), strings.Replace(payload, `"exp"`, `"EXP"`, 1)), "token_expiry_missing"},
		"header is a list":        {resign(`["RS256"]`, payload), "token_malformed"},
		"header is null":          {resign(`null`, payload), "token_malformed"},
		"header and more":         {resign(header("")+"{}", payload), "token_malformed"},
		"header unfinished":       {resign(`{"alg":"RS256","kid":"rsa"`, payload), "token_malformed"},
		"header comma at end":     {resign(`{"alg":"RS256","kid":"rsa",}`, payload), "token_malformed"},
		"header not UTF-8":        {resign("{\"alg\":\"RS256\",\"kid\":\"rsa\",\"x\":\"\xff\"}", payload), "token_malformed"},
		"claims are a list":       {resign(header(""), "["+payload+"]"), "token_malformed"},
		"claims and more":         {resign(header(""), payload+payload), "token_malformed"},
		"claims with a comment":   {resign(header(""), "/**/"+payload), "token_malformed"},
		"claims with a BOM":       {resign(header(""), "\ufeff"+payload), "token_malformed"},
		"claims with NaN":         {resign(header(""), strings.Replace(payload, `"exp":`, `"exp":NaN,"e":`, 1)), "token_malformed"},
		"claims nested deep":      {resign(header(""), payload[:len(payload)-1]+`,"a":`+strings.Repeat("[", 17)+strings.Repeat("]", 17)+"}"), "token_malformed"},
		"claims nested very deep": {resign(header(""), `{"a":`+strings.Repeat("[", 9000)), "token_malformed"},
		"empty claims":            {resign(header(""), "{}"), "token_issuer"},

		"one part":          {parts[0], "token_malformed"},
		"two parts":         {parts[0] + "." + parts[1], "token_malformed"},
		"four parts":        {good + "." + parts[2], "token_malformed"},
		"five parts, a JWE": {good + "." + parts[1] + "." + parts[2], "token_malformed"},
		"dot at the end":    {good + ".", "token_malformed"},
		"dot at the start":  {"." + good, "token_malformed"},
		"two dots":          {parts[0] + ".." + parts[2], "token_malformed"},
		"no signature":      {parts[0] + "." + parts[1] + ".", "token_malformed"},
		"dots alone":        {"..", "token_malformed"},
		"padding":           {good + "=", "token_malformed"},
		"two paddings":      {good + "==", "token_malformed"},
		"padded header":     {raw(b64(header(" "))+"==", b64(payload)), "token_malformed"},
		"space at the end":  {good + " ", "token_malformed"},
		"tab inside":        {parts[0] + ".\t" + parts[1] + "." + parts[2], "token_malformed"},
		"standard alphabet": {raw(b64(header("")), base64.RawStdEncoding.EncodeToString([]byte(strings.Replace(payload, "alice", "al???ÿice~~~", 1)))), "token_malformed"},
		"not ASCII":         {good + "é", "token_malformed"},
		"percent":           {strings.Replace(good, ".", "%2e", 1), "token_malformed"},
		"too large":         {resign(header(""), payload+strings.Repeat(" ", 16<<10)), "token_malformed"},

		"signature cut":      {parts[0] + "." + parts[1] + "." + b64(string(must(base64.RawURLEncoding.DecodeString(parts[2]))[:253])), "token_signature"},
		"signature longer":   {good + "AAAA", "token_signature"},
		"signature of zeros": {parts[0] + "." + parts[1] + "." + b64(strings.Repeat("\x00", 256)), "token_signature"},

		"ECDSA as ASN.1":             {esInput + "." + b64(string(must(ecdsa.SignASN1(rand.Reader, p256, esDigest[:])))), "token_signature"},
		"ECDSA cut":                  {esInput + "." + b64(string(esSignature[:63])), "token_signature"},
		"ECDSA longer":               {esInput + "." + b64(string(esSignature)+"\x00"), "token_signature"},
		"ECDSA with a zero before s": {esInput + "." + b64(string(esSignature[:32])+"\x00"+string(esSignature[32:])), "token_signature"},
		"ECDSA r alone":              {esInput + "." + b64(string(esSignature[:32])), "token_signature"},
		"ECDSA of zeros":             {esInput + "." + b64(strings.Repeat("\x00", 64)), "token_signature"}, // CVE-2022-21449
		"ECDSA of the order":         {esInput + "." + b64(string(p256.Params().N.Bytes())+string(p256.Params().N.Bytes())), "token_signature"},
		"Ed25519 as something":       {sign("RS256", `{"alg":"EdDSA","kid":"ed"}`, payload, rsaKey), "token_signature"},
	}
	w := newWorld(t)
	p := w.policy(t, allAlgs)
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for range 2 { // The second time, a wrong memory would let it pass.
				if got := p.bearer(t, tc.token); got.String() != "401 "+tc.want || got.Identity != nil {
					t.Errorf("%v, want 401 %s", got, tc.want)
				}
			}
		})
	}
	for name, token := range map[string]string{
		"good":                    good,
		"space inside the header": resign(`{ "alg" : "RS256", "kid":"rsa" }`, payload),
		"typ of RFC 9068":         resign(header(`,"typ":"at+jwt"`), payload),
		"typ as a media type":     resign(header(`,"typ":"application/AT+JWT"`), payload),
		"typ in lower case":       resign(header(`,"typ":"jwt"`), payload),
		"cty":                     resign(header(`,"cty":"x"`), payload),
		"nested not too deep":     resign(header(""), payload[:len(payload)-1]+`,"a":`+strings.Repeat("[", 15)+strings.Repeat("]", 15)+"}"),
		"raw signs as resign":     raw(b64(header(" ")), b64(payload)),
	} {
		if got := p.bearer(t, token); got.String() != "continue alice" {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A last character has bits that do not count: a decoder that does not look at them takes several spellings of one token.
func TestUnusedBitsMustBeZero(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	p := newWorld(t).policy(t, corporate)
	good := newToken(nil) // 256 bytes of signature: the last character has 4 unused bits
	accepted := 0
	for _, last := range alphabet {
		if token := good[:len(good)-1] + string(last); p.bearer(t, token).Continued() {
			if accepted++; token != good {
				t.Errorf("accepted with %c at the end", last)
			}
		}
	}
	if accepted != 1 {
		t.Errorf("%d spellings of one token accepted, want 1", accepted)
	}
}

// Line breaks can't come through Envoy, but nothing here relies on that.
func TestLineBreaksInSegments(t *testing.T) {
	good := newToken(nil)
	for _, c := range []string{"\n", "\r", "\r\n"} {
		for i := range len(good) {
			if _, err := parseToken([]byte(good[:i] + c + good[i:])); err == nil {
				t.Fatalf("accepted with %q at %d", c, i)
			}
		}
	}
}

func TestWeakRSAKeyNeverFits(t *testing.T) {
	w := newWorld(t)
	small := weakRSA()
	w.corporate.SetKeys(policies.VerificationKey{ID: "rsa", Public: &small.PublicKey})
	if got := w.policy(t, corporate).bearer(t, newToken(nil)); got.String() != "401 token_key" {
		t.Error(got)
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(newToken(nil))
	f.Add(signClaims("EdDSA", m{"kid": "ed"}, claims(m{"a": []any{m{"b": 1}}}), edKey))
	f.Add(b64(`{"alg":"none"}`) + "." + b64("{}") + ".")
	f.Add("eyJhbGciOiJSUzI1NiJ9.e30.AA")
	f.Add("eyJhbGciOiJSUzI1NiJ9.e30.AB")
	f.Add("..")
	p := newWorld(f).policy(f, allAlgs)
	f.Fuzz(func(t *testing.T, text string) {
		tok, err := parseToken([]byte(text))
		if err != nil {
			return
		}
		parts := strings.Split(text, ".")
		if len(parts) != 3 || string(tok.signed) != parts[0]+"."+parts[1] || b64(string(tok.signature)) != parts[2] {
			t.Errorf("accepted what is not canonical: %q", text)
		}
		for _, s := range parts[:2] {
			if b64(string(must(base64.RawURLEncoding.DecodeString(s)))) != s {
				t.Errorf("accepted a segment that is not canonical: %q", s)
			}
		}
		if tok.claims == nil || tok.hasKid != (tok.kid != "") {
			t.Errorf("token %+v", tok)
		}
		// None of the checks may panic on claims of whatever kind.
		_, _ = readLifetime(tok.claims)
		_, _ = readScopes(tok.claims)
		_ = audienceFits(tok.claims.Root().Member("aud"), []string{"api"})
		if v, _ := p.accept(tok); v != nil {
			for _, h := range v.headers {
				if h.Value != strings.TrimSpace(h.Value) || policies.CheckHeader(h.Name, h.Value) != nil || strings.ContainsFunc(h.Value, func(c rune) bool { return c < ' ' || c >= 0x7f }) {
					t.Errorf("header value %q", h.Value)
				}
			}
		}
	})
}
