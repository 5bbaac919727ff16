// The Go client's driver; built inside client/go, whose module it needs.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"tokenvault.example/client/go/tokenvault"
)

type command struct {
	Op                   string
	Brand                string
	Consumer             *string
	Conversation         *string
	Query                map[string]string
	DelegationID         string `json:"delegation_id"`
	Code                 string
	RejectedTokenVersion string `json:"rejected_token_version"`
	Challenge            bool
	Timeout              float64
	Times                int
	URL                  string
	By                   string
	Seconds              float64
}

func (c command) context() tokenvault.Context {
	if c.Consumer != nil {
		return tokenvault.Consumer(*c.Consumer)
	}
	return tokenvault.Conversation(*c.Conversation)
}

type object map[string]any

type driver struct {
	vault   *tokenvault.Client
	sources map[string]*tokenvault.TokenSource
}

func main() {
	vault, err := tokenvault.FromEnvironment()
	if err != nil {
		log.Fatal(err)
	}
	d := driver{vault, map[string]*tokenvault.TokenSource{}}
	lines, answers := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			log.Fatal(err)
		}
		answer := object{}
		if ok, err := d.play(c); err == nil {
			answer["ok"] = ok
		} else {
			answer["error"] = failure(err)
		}
		if err := answers.Encode(answer); err != nil {
			log.Fatal(err)
		}
	}
	if err := errors.Join(lines.Err(), vault.Close()); err != nil {
		log.Fatal(err)
	}
}

func (d driver) play(c command) (object, error) {
	ctx := context.Background()
	if c.Timeout != 0 {
		limited, cancel := context.WithTimeout(ctx, span(c.Timeout))
		defer cancel()
		ctx = limited
	}
	switch c.Op {
	case "start_delegation":
		challenge, err := d.vault.StartDelegation(ctx, tokenvault.Delegation{Brand: c.Brand, Context: c.context()})
		if err != nil {
			return nil, err
		}
		return linked(challenge), nil
	case "complete_delegation":
		query := url.Values{}
		for name, value := range c.Query {
			query.Set(name, value)
		}
		return delegated(d.vault.CompleteDelegation(ctx, query))
	case "confirm_delegation":
		return delegated(d.vault.ConfirmDelegation(ctx, c.DelegationID, c.Code))
	case "watch_delegation":
		return delegated(d.vault.WatchDelegation(ctx, c.DelegationID))
	case "get_token":
		asked := tokenvault.TokenRequest{Brand: c.Brand, Context: c.context(), RejectedTokenVersion: c.RejectedTokenVersion}
		if c.Challenge {
			asked.Challenge = &tokenvault.ChallengeOptions{}
		}
		return told(d.vault.GetToken(ctx, asked))
	case "invalidate":
		revocation, err := d.vault.Invalidate(ctx, c.Brand, c.context())
		return object{"revocation": revocation}, err
	case "source":
		return told(together(ctx, d.source(c), c.Times))
	case "fetch":
		api := &http.Client{Transport: &tokenvault.Transport{Source: d.source(c)}}
		answer, err := api.Get(c.URL)
		if err != nil {
			return nil, err
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		return object{"status": answer.StatusCode}, answer.Body.Close()
	case "bench":
		return d.bench(ctx, c)
	}
	return nil, fmt.Errorf("no such op: %s", c.Op)
}

func (d driver) source(c command) *tokenvault.TokenSource {
	whose := c.context()
	key := fmt.Sprint(c.Brand, "\n", whose.ConsumerID(), "\n", whose.ConversationID())
	if d.sources[key] == nil {
		d.sources[key] = d.vault.TokenSource(c.Brand, whose)
	}
	return d.sources[key]
}

func (d driver) bench(ctx context.Context, c command) (object, error) {
	once := d.source(c).Get
	if c.By == "rpc" {
		request := tokenvault.TokenRequest{Brand: c.Brand, Context: c.context()}
		once = func(ctx context.Context) (*tokenvault.Token, error) { return d.vault.GetToken(ctx, request) }
	}
	if _, err := once(ctx); err != nil {
		return nil, err
	}
	began, calls := time.Now(), 0
	for time.Since(began) < span(c.Seconds) {
		if _, err := once(ctx); err != nil {
			return nil, err
		}
		calls++
	}
	return object{"calls": calls, "seconds": time.Since(began).Seconds()}, nil
}

// together asks a source so many times at once; the last of what came.
func together(ctx context.Context, source *tokenvault.TokenSource, times int) (token *tokenvault.Token, err error) {
	var all sync.WaitGroup
	var lock sync.Mutex
	for range times {
		all.Go(func() {
			got, failed := source.Get(ctx)
			lock.Lock()
			defer lock.Unlock()
			token, err = got, errors.Join(err, failed)
		})
	}
	all.Wait()
	return token, err
}

func linked(challenge *tokenvault.Challenge) object {
	return object{
		"delegation_id": challenge.DelegationID, "authorization_url": challenge.AuthorizationURL,
		"expire_time": seconds(challenge.ExpireTime),
	}
}

func delegated(done *tokenvault.Delegated, err error) (object, error) {
	if err != nil {
		return nil, err
	}
	answer := object{
		"brand": done.Brand, "consumer": done.Context.ConsumerID(), "conversation": done.Context.ConversationID(),
	}
	if done.Confirmation != nil {
		answer["confirmation_code"] = done.Confirmation.Code
	}
	return answer, nil
}

func told(token *tokenvault.Token, err error) (object, error) {
	if err != nil {
		return nil, err
	}
	return object{
		"access_token": token.AccessToken, "token_type": token.TokenType, "expire_time": seconds(token.ExpireTime),
		"scopes": token.Scopes, "token_version": token.TokenVersion, "degraded": token.Degraded,
	}, nil
}

var families = []struct {
	name string
	is   error
}{
	{"ConsentRequired", tokenvault.ErrConsentRequired},
	{"ConfirmationRequired", tokenvault.ErrConfirmationRequired},
	{"ConfirmationCodeWrong", tokenvault.ErrConfirmationCodeWrong},
	{"DelegationFailed", tokenvault.ErrDelegationFailed},
	{"Unavailable", tokenvault.ErrUnavailable},
	{"AccessDenied", tokenvault.ErrAccessDenied},
	{"InvalidRequest", tokenvault.ErrInvalidRequest},
	{"ScopeNotGranted", tokenvault.ErrScopeNotGranted},
	{"AuthorizationServerMisconfigured", tokenvault.ErrAuthorizationServerMisconfigured},
	{"InternalError", tokenvault.ErrInternal},
	{"DeadlineExceeded", context.DeadlineExceeded},
}

// codes are gRPC's own names, which Go spells otherwise.
var codes = []string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

func failure(err error) object {
	var ours *tokenvault.Error
	if !errors.As(err, &ours) {
		return object{"family": "none", "text": err.Error()}
	}
	answer := object{"code": codes[ours.Code], "text": fmt.Sprintf("%v %+v %#v", err, *ours, *ours)}
	if ours.Reason != "" {
		answer["reason"] = ours.Reason
	}
	if ours.Challenge != nil {
		answer["challenge"] = linked(ours.Challenge)
		answer["delegation_id"] = ours.Challenge.DelegationID
	}
	if errors.Is(err, tokenvault.ErrConfirmationCodeWrong) {
		answer["tries_left"] = ours.TriesLeft()
	}
	for _, family := range families {
		if errors.Is(err, family.is) {
			answer["family"] = family.name
		}
	}
	return answer
}

func seconds(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return float64(t.UnixMilli()) / 1000
}

func span(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }
