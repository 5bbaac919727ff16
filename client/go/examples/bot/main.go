// A bot that asks the brand's API as a consumer, who logs in where it must.
//
// Run it against `make run`, with the variables that it prints:
//
//	go run ./examples/bot http://127.0.0.1:9400/me
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"strings"

	"tokenvault.example/client/go/tokenvault"
)

const brand = "acme"

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: bot URL, of the brand's API")
	}
	if err := run(context.Background(), os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, address string) error {
	vault, err := tokenvault.FromEnvironment()
	if err != nil {
		return err
	}
	defer func() { _ = vault.Close() }()
	conversation := tokenvault.Conversation("c-go")
	source := vault.TokenSource(brand, conversation)
	api := &http.Client{Transport: &tokenvault.Transport{Source: source}}
	answer, err := api.Get(address)
	if errors.Is(err, tokenvault.ErrConsentRequired) { // never asked, or expired
		if err = login(ctx, vault, conversation); err != nil {
			return err
		}
		answer, err = api.Get(address)
	}
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	fmt.Println("The brand's API answers", answer.StatusCode)
	return nil
}

func login(ctx context.Context, vault *tokenvault.Client, conversation tokenvault.Context) error {
	challenge, err := vault.StartDelegation(ctx, tokenvault.Delegation{Brand: brand, Context: conversation})
	if err != nil {
		return err
	}
	fmt.Println("Log in here:", challenge.AuthorizationURL)
	fmt.Print("Then paste the address your browser was sent to: ")
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return err
	}
	arrived, err := url.Parse(strings.TrimSpace(line))
	if err != nil {
		return errors.New("that is no address") // it would show the code
	}
	_, err = vault.CompleteDelegation(ctx, arrived.Query())
	return err
}
