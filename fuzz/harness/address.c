/* Addresses as texts: what is read is written so that it reads as the same address; what the system's own parser makes of
 * the text agrees; an address of any bytes is refused or behaves like one. */
#include "fuzz.h"

#include <kolo.h>

#include <arpa/inet.h>
#include <sys/socket.h>

static char *text_of(const uint8_t *data, size_t length)
{
    char *text = malloc(length + 1); /* no byte more, so that reading past its end is seen */
    REQUIRE(text != NULL);
    memcpy(text, data, length);
    text[length] = '\0';
    return text;
}

/* Writes it with and without room, and reads it again. */
static void round_trip(const kolo_address *address)
{
    char text[KOLO_ADDRESS_TEXT_MAX], cut[8];
    kolo_address again;
    int text_length = kolo_address_format(address, text, sizeof text);
    REQUIRE(text_length > 0 && strlen(text) == (size_t)text_length);
    REQUIRE(kolo_address_format(address, text, (size_t)text_length) == KOLO_ENOBUFS);
    REQUIRE(kolo_address_parse_endpoint(text, 1, &again) == KOLO_OK);
    REQUIRE(again.port == address->port && again.scope == address->scope);
    again.flow = address->flow; /* which texts do not hold */
    REQUIRE(kolo_address_equal(&again, address) == 1);
    int order = 1;
    REQUIRE(kolo_address_compare(&again, address, &order) == KOLO_OK && order == 0);

    REQUIRE(kolo_address_format_ip(address, text, sizeof text) > 0);
    REQUIRE(kolo_address_parse(text, address->port, &again) == KOLO_OK);
    again.flow = address->flow;
    REQUIRE(kolo_address_equal(&again, address) == 1);

    memset(cut, 'x', sizeof cut);
    REQUIRE(kolo_address_format(address, cut, 4) == KOLO_ENOBUFS && memcmp(cut, "xxxxxxxx", 8) == 0);

    struct sockaddr_storage storage;
    int length = kolo_address_to_sockaddr(address, &storage, sizeof storage);
    REQUIRE(length > 0);
    REQUIRE(kolo_address_from_sockaddr(&storage, (size_t)length, &again) == KOLO_OK);
    REQUIRE(kolo_address_equal(&again, address) == 1);
}

static void read_text(const char *text)
{
    kolo_address address, endpoint;
    uint8_t system[16];
    memset(&address, 0x5a, sizeof address);
    kolo_address before = address;
    int result = kolo_address_parse(text, 80, &address);
    REQUIRE(result == KOLO_OK || result == KOLO_EINVAL);
    if (result != KOLO_OK)
        REQUIRE(memcmp(&address, &before, sizeof address) == 0);
    if (strchr(text, '%') == NULL) { /* the system's parser knows no scopes */
        bool v4 = inet_pton(AF_INET, text, system) == 1, v6 = !v4 && inet_pton(AF_INET6, text, system) == 1;
        REQUIRE((result == KOLO_OK) == (v4 || v6));
        if (result == KOLO_OK) {
            REQUIRE(address.family == (v4 ? KOLO_FAMILY_IPV4 : KOLO_FAMILY_IPV6));
            REQUIRE(memcmp(address.ip, system, v4 ? 4 : 16) == 0);
        }
    }
    if (result == KOLO_OK) {
        REQUIRE(address.port == 80);
        round_trip(&address);
        /* What is an address is an endpoint with the default port. */
        REQUIRE(kolo_address_parse_endpoint(text, 80, &endpoint) == KOLO_OK);
        REQUIRE(kolo_address_equal(&endpoint, &address) == 1);
    }
    if (kolo_address_parse_endpoint(text, 443, &endpoint) == KOLO_OK)
        round_trip(&endpoint);
}

void fuzz_address(const uint8_t *data, size_t length)
{
    char *text = text_of(data, length);
    read_text(text);
    free(text);

    /* As the struct of a caller who sets it by hand, and as a sockaddr that came from elsewhere. */
    kolo_address address;
    memset(&address, 0, sizeof address);
    memcpy(&address, data, length < sizeof address ? length : sizeof address);
    char out[KOLO_ADDRESS_TEXT_MAX];
    int known = kolo_address_format(&address, out, sizeof out);
    REQUIRE(known > 0 || known == KOLO_EINVAL);
    REQUIRE((kolo_address_is_loopback(&address) >= 0) == (known > 0));
    REQUIRE((kolo_address_is_multicast(&address) >= 0) == (known > 0));
    if (known > 0) {
        kolo_address plain;
        REQUIRE(kolo_address_unmap(&address, &plain) == KOLO_OK);
        REQUIRE(kolo_address_is_v4_mapped(&plain) == 0);
    }
    uint8_t *sockaddr = malloc(length > 0 ? length : 1);
    REQUIRE(sockaddr != NULL);
    memcpy(sockaddr, data, length);
    if (kolo_address_from_sockaddr(sockaddr, length, &address) == KOLO_OK)
        round_trip(&address);
    free(sockaddr);
}
