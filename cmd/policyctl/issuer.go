package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lestrrat-go/jwx/v3/jwk"
)

const (
	defaultIssuerDir = "build/demo"
	issuerKeyFile    = "issuer.key"
	issuerSetFile    = "jwks.json"
	minRSABits       = 2048 // RFC 7518 section 3.3
)

// algorithms are the signature algorithms of tokens (RFC 7518, RFC 8037), the default first.
const algorithms = "RS256, ES256, EdDSA"

func (p *program) tokenInit(args []string) error {
	f := p.flags("policyctl token init [--dir DIR] [--alg ALG]",
		"Makes the demo's issuer: its private key "+issuerKeyFile+" and its key set "+issuerSetFile+". A key that is there is kept.")
	dir := f.String("dir", defaultIssuerDir, "the `folder` for both files")
	alg := f.String("alg", "RS256", "the `algorithm` of a new key: "+algorithms)
	if err := parse(f, args); err != nil {
		return err
	}
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	keyPath, setPath := filepath.Join(*dir, issuerKeyFile), filepath.Join(*dir, issuerSetFile)
	key, err := readKey(keyPath)
	verb := "kept"
	if errors.Is(err, fs.ErrNotExist) {
		verb = "made"
		key, err = makeKey(*alg, keyPath)
	}
	if err != nil {
		return err
	}
	set, err := keySet(key)
	if err != nil {
		return err
	}
	if err := replaceFile(setPath, set); err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "%s %s, wrote %s\n", verb, keyPath, setPath)
	return err
}

// makeKey makes a key and writes it to a new file that only its owner reads.
func makeKey(alg, path string) (crypto.Signer, error) {
	var key crypto.Signer
	var err error
	switch alg {
	case "RS256":
		key, err = rsa.GenerateKey(rand.Reader, minRSABits)
	case "ES256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, badUsage("unknown --alg %q; legal are %s", alg, algorithms)
	}
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	// Not through replaceFile: a key that came meanwhile must not be lost.
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write key: %w", err)
	}
	err = errors.Join(pem.Encode(file, &pem.Block{Type: "PRIVATE KEY", Bytes: der}), file.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write key: %w", err), os.Remove(path))
	}
	return key, nil
}

// readKey reads a private key (PKCS #8, PKCS #1 or SEC 1, in PEM). Its errors never show the file's content.
func readKey(path string) (crypto.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("read key %q: it is not PEM", path)
	}
	var key any
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("read key %q: it is a %q; legal is a private key", path, block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("read key %q: it can't be decoded", path)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("read key %q: a %T does not sign", path, key)
	}
	if _, err := algorithmOf(signer); err != nil {
		return nil, fmt.Errorf("read key %q: %w", path, err)
	}
	return signer, nil
}

// algorithmOf returns the algorithm that the key signs with.
func algorithmOf(key crypto.Signer) (string, error) {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if bits := k.N.BitLen(); bits < minRSABits {
			return "", fmt.Errorf("an RSA key of %d bits; legal are %d and more", bits, minRSABits)
		}
		return "RS256", nil
	case *ecdsa.PrivateKey:
		if k.Curve != elliptic.P256() {
			return "", fmt.Errorf("an EC key on %s; legal is P-256", k.Curve.Params().Name)
		}
		return "ES256", nil
	case ed25519.PrivateKey:
		return "EdDSA", nil
	}
	return "", fmt.Errorf("a key for other than %s", algorithms)
}

// publicJWK returns the public key as a JWK whose kid is its thumbprint (RFC 7638).
func publicJWK(key crypto.Signer) (jwk.Key, string, error) {
	public, err := jwk.Import(key.Public())
	if err != nil {
		return nil, "", fmt.Errorf("convert key: %w", err)
	}
	thumbprint, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, "", fmt.Errorf("convert key: %w", err)
	}
	return public, base64.RawURLEncoding.EncodeToString(thumbprint), nil
}

// keySet returns the JWK set with the public key (RFC 7517 section 5).
func keySet(key crypto.Signer) ([]byte, error) {
	public, kid, err := publicJWK(key)
	if err != nil {
		return nil, err
	}
	alg, err := algorithmOf(key)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{jwk.KeyIDKey: kid, jwk.AlgorithmKey: alg, jwk.KeyUsageKey: "sig"} {
		if err := public.Set(name, value); err != nil {
			return nil, fmt.Errorf("convert key: %w", err)
		}
	}
	text, err := json.MarshalIndent(map[string]any{"keys": []jwk.Key{public}}, "", "  ")
	return append(text, '\n'), err
}

// replaceFile writes a file that everyone may read, in one step for who reads it meanwhile.
func replaceFile(path string, content []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	_, err = file.Write(content)
	err = errors.Join(err, file.Chmod(0o644), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %q: %w", path, err), os.Remove(file.Name()))
	}
	return nil
}
