/* Addresses: parsing, formatting, the system's sockaddr and back. No loop is needed, and any thread may ask. */
#include "harness.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

TEST_WITHOUT_LOOP(parses_ipv4) {
    kolo_address address;
    memset(&address, 0xa5, sizeof address);
    CHECK_OK(kolo_address_parse("192.0.2.7", 8080, &address));
    static const uint8_t ip[4] = {192, 0, 2, 7};
    CHECK_INT(address.family, KOLO_FAMILY_IPV4);
    CHECK_INT(address.port, 8080);
    CHECK(memcmp(address.ip, ip, sizeof ip) == 0);
    CHECK_INT(address.scope, 0);
    CHECK_INT(address.flow, 0);
}

TEST_WITHOUT_LOOP(parses_ipv6) {
    kolo_address address;
    memset(&address, 0xa5, sizeof address);
    CHECK_OK(kolo_address_parse("2001:db8::ff00:42:8329", 443, &address));
    struct in6_addr ip;
    CHECK_INT(inet_pton(AF_INET6, "2001:db8::ff00:42:8329", &ip), 1);
    CHECK_INT(address.family, KOLO_FAMILY_IPV6);
    CHECK_INT(address.port, 443);
    CHECK(memcmp(address.ip, &ip, sizeof ip) == 0);
    CHECK_INT(address.scope, 0);
    CHECK_INT(address.flow, 0);
}

TEST_WITHOUT_LOOP(parses_what_inet_pton_parses) {
    static const char *const texts[] = {"::",         "::1", "::ffff:1.2.3.4", "1:2:3:4:5:6:7:8", "1::8", "fe80::1:2",
                                        "64:ff9b::1.2.3.4"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        kolo_address address;
        struct in6_addr ip;
        CHECK_INT(inet_pton(AF_INET6, texts[i], &ip), 1);
        CHECK_OK(kolo_address_parse(texts[i], 1, &address));
        CHECK(memcmp(address.ip, &ip, sizeof ip) == 0);
    }
}

TEST_WITHOUT_LOOP(parses_a_scope_by_name_and_by_number) {
    kolo_address by_name, by_number;
    char text[80];
    struct if_nameindex *interfaces = if_nameindex();
    CHECK(interfaces != NULL && interfaces[0].if_index != 0);
    snprintf(text, sizeof text, "fe80::1%%%s", interfaces[0].if_name);
    CHECK_OK(kolo_address_parse(text, 9, &by_name));
    CHECK_INT(by_name.scope, interfaces[0].if_index);
    snprintf(text, sizeof text, "fe80::1%%%u", interfaces[0].if_index);
    CHECK_OK(kolo_address_parse(text, 9, &by_number));
    CHECK_INT(by_number.scope, interfaces[0].if_index);
    if_freenameindex(interfaces);
}

TEST_WITHOUT_LOOP(refuses_what_is_not_numeric) {
    static const char *const texts[] = {"",
                                        "localhost",
                                        "example.org",
                                        "1.2.3",
                                        "1.2.3.4.5",
                                        "256.0.0.1",
                                        "1.2.3.-4",
                                        "127.0.0.1 ",
                                        " 127.0.0.1",
                                        "127.0.0.1:80",
                                        "[::1]",
                                        "::1::",
                                        ":::",
                                        "1:2:3:4:5:6:7:8:9",
                                        "g::1",
                                        "12345::1",
                                        "127.0.0.1%lo",
                                        "::1%",
                                        "fe80::1%no-such-interface-here",
                                        "fe80::1%99999999999999999999",
                                        "%",
                                        "\xff\xfe\x80"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        kolo_address address;
        int result = kolo_address_parse(texts[i], 1, &address);
        if (result != KOLO_EINVAL) printf("    \"%s\" was not refused\n", texts[i]);
        CHECK_ERROR(result, KOLO_EINVAL);
    }
    char long_text[5000];
    kolo_address address;
    memset(long_text, '1', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    CHECK_ERROR(kolo_address_parse(long_text, 1, &address), KOLO_EINVAL);
}

TEST_WITHOUT_LOOP(formats_with_the_port) {
    kolo_address address;
    char text[KOLO_ADDRESS_TEXT_MAX];
    CHECK_OK(kolo_address_parse("127.0.0.1", 80, &address));
    CHECK_INT(kolo_address_format(&address, text, sizeof text), strlen("127.0.0.1:80"));
    CHECK_STRING(text, "127.0.0.1:80");
    CHECK_OK(kolo_address_parse("0:0::1", 65535, &address));
    CHECK_INT(kolo_address_format(&address, text, sizeof text), strlen("[::1]:65535"));
    CHECK_STRING(text, "[::1]:65535");
}

TEST_WITHOUT_LOOP(formats_the_longest_address) {
    kolo_address address = {KOLO_FAMILY_IPV6, 65535, 0xffffffffu, 0xffffffffu, {0}};
    char text[KOLO_ADDRESS_TEXT_MAX];
    memset(address.ip, 0xfe, sizeof address.ip);
    int length = kolo_address_format(&address, text, sizeof text);
    CHECK(length > 0 && length < KOLO_ADDRESS_TEXT_MAX);
    CHECK_INT(strlen(text), length);
    CHECK(strstr(text, "]:65535") != NULL);
}

TEST_WITHOUT_LOOP(format_needs_room_for_the_nul) {
    kolo_address address = loopback_v4(80);
    char text[16];
    memset(text, '#', sizeof text);
    size_t length = strlen("127.0.0.1:80");
    CHECK_ERROR(kolo_address_format(&address, text, length), KOLO_ENOBUFS);
    CHECK_ERROR(kolo_address_format(&address, text, 0), KOLO_ENOBUFS);
    CHECK_INT(text[length], '#'); /* nothing past the room given */
    CHECK_INT(kolo_address_format(&address, text, length + 1), length);
    CHECK_STRING(text, "127.0.0.1:80");
    CHECK_INT(text[length + 1], '#');
}

TEST_WITHOUT_LOOP(a_formatted_ipv6_scope_names_the_interface) {
    kolo_address address = loopback_v6(80);
    char text[KOLO_ADDRESS_TEXT_MAX];
    address.scope = 7;
    CHECK(kolo_address_format(&address, text, sizeof text) > 0);
    CHECK_STRING(text, "[::1%7]:80");
}

TEST_WITHOUT_LOOP(sockaddr_there_and_back_ipv4) {
    kolo_address address, back;
    struct sockaddr_in place;
    CHECK_OK(kolo_address_parse("10.1.2.3", 4660, &address));
    CHECK_INT(kolo_address_to_sockaddr(&address, &place, sizeof place), sizeof place);
    CHECK_INT(place.sin_family, AF_INET);
    CHECK_INT(ntohs(place.sin_port), 4660);
    CHECK_INT(ntohl(place.sin_addr.s_addr), 0x0a010203);
    CHECK_OK(kolo_address_from_sockaddr(&place, sizeof place, &back));
    CHECK_INT(back.family, KOLO_FAMILY_IPV4);
    CHECK_INT(back.port, 4660);
    CHECK(memcmp(back.ip, address.ip, 4) == 0);
}

TEST_WITHOUT_LOOP(sockaddr_there_and_back_ipv6) {
    kolo_address address, back;
    struct sockaddr_in6 place;
    CHECK_OK(kolo_address_parse("fe80::9", 1, &address));
    address.scope = 3;
    address.flow = 0x12345;
    CHECK_INT(kolo_address_to_sockaddr(&address, &place, sizeof place), sizeof place);
    CHECK_INT(place.sin6_family, AF_INET6);
    CHECK_INT(place.sin6_scope_id, 3);
    CHECK_OK(kolo_address_from_sockaddr(&place, sizeof place, &back));
    CHECK_INT(back.family, KOLO_FAMILY_IPV6);
    CHECK_INT(back.port, 1);
    CHECK_INT(back.scope, 3);
    CHECK_INT(back.flow, 0x12345);
    CHECK(memcmp(back.ip, address.ip, 16) == 0);
}

TEST_WITHOUT_LOOP(sockaddr_need_not_be_aligned) {
    union {
        struct sockaddr_in6 aligned;
        uint8_t bytes[sizeof(struct sockaddr_in6) + 1];
    } place;
    kolo_address address = loopback_v6(77), back;
    CHECK_INT(kolo_address_to_sockaddr(&address, place.bytes + 1, sizeof(struct sockaddr_in6)),
              sizeof(struct sockaddr_in6));
    CHECK_OK(kolo_address_from_sockaddr(place.bytes + 1, sizeof(struct sockaddr_in6), &back));
    CHECK_INT(back.port, 77);
}

TEST_WITHOUT_LOOP(sockaddr_of_another_family_or_too_short) {
    struct sockaddr_un unix_place;
    struct sockaddr_in place;
    kolo_address address, v4 = loopback_v4(1), v6 = loopback_v6(1);
    memset(&unix_place, 0, sizeof unix_place);
    unix_place.sun_family = AF_UNIX;
    CHECK_ERROR(kolo_address_from_sockaddr(&unix_place, sizeof unix_place, &address), KOLO_EAFNOSUPPORT);
    CHECK_INT(kolo_address_to_sockaddr(&v4, &place, sizeof place), sizeof place);
    CHECK_ERROR(kolo_address_from_sockaddr(&place, sizeof place - 1, &address), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_from_sockaddr(&place, 1, &address), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_from_sockaddr(&place, 0, &address), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_to_sockaddr(&v4, &place, sizeof place - 1), KOLO_ENOBUFS);
    CHECK_ERROR(kolo_address_to_sockaddr(&v6, &place, sizeof place), KOLO_ENOBUFS);
}

TEST_WITHOUT_LOOP(an_address_of_no_family_is_refused) {
    kolo_address address = loopback_v4(1);
    char text[KOLO_ADDRESS_TEXT_MAX];
    struct sockaddr_storage place;
    static const uint16_t families[] = {KOLO_FAMILY_NONE, 5, AF_INET6, 65535};
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        address.family = families[i];
        CHECK_ERROR(kolo_address_format(&address, text, sizeof text), KOLO_EINVAL);
        CHECK_ERROR(kolo_address_to_sockaddr(&address, &place, sizeof place), KOLO_EINVAL);
    }
}

TEST_WITHOUT_LOOP(null_pointers_are_refused) {
    kolo_address address = loopback_v4(1);
    char text[KOLO_ADDRESS_TEXT_MAX];
    struct sockaddr_storage place;
    memset(&place, 0, sizeof place);
    CHECK_ERROR(kolo_address_parse(NULL, 1, &address), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_parse("::1", 1, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_format(NULL, text, sizeof text), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_format(&address, NULL, 80), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_from_sockaddr(NULL, sizeof place, &address), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_from_sockaddr(&place, sizeof place, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_to_sockaddr(NULL, &place, sizeof place), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_to_sockaddr(&address, NULL, sizeof place), KOLO_EINVAL);
}

TEST_WITHOUT_LOOP(parses_an_endpoint) {
    static const struct {
        const char *text;
        const char *expected;
    } cases[] = {{"192.0.2.7:80", "192.0.2.7:80"}, {"192.0.2.7", "192.0.2.7:9"},     {"[::1]:65535", "[::1]:65535"},
                 {"[::1]", "[::1]:9"},             {"::1", "[::1]:9"},               {"1:2:3:4:5:6:7:8", "[1:2:3:4:5:6:7:8]:9"},
                 {"fe80::1%7", "[fe80::1%7]:9"},   {"[fe80::1%7]:0", "[fe80::1%7]:0"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        kolo_address address;
        char text[KOLO_ADDRESS_TEXT_MAX];
        CHECK_OK(kolo_address_parse_endpoint(cases[i].text, 9, &address));
        CHECK(kolo_address_format(&address, text, sizeof text) > 0);
        CHECK_STRING(text, cases[i].expected);
    }
}

TEST_WITHOUT_LOOP(refuses_what_is_no_endpoint) {
    static const char *const texts[] = {"",          ":",         ":80",           "[]:80",         "[::1",
                                        "[::1]80",   "[::1]:",    "[127.0.0.1]:1", "127.0.0.1:",    "127.0.0.1:+8",
                                        "127.0.0.1:65536", "localhost:80", "127.0.0.1:http", "1.2.3.4:8:8", "\xff:80"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        kolo_address address;
        CHECK_ERROR(kolo_address_parse_endpoint(texts[i], 9, &address), KOLO_EINVAL);
    }
    kolo_address address;
    CHECK_ERROR(kolo_address_parse_endpoint(NULL, 9, &address), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_parse_endpoint("::1", 9, NULL), KOLO_EINVAL);
}

static kolo_address endpoint(const char *text) {
    kolo_address address;
    CHECK_OK(kolo_address_parse_endpoint(text, 0, &address));
    return address;
}

TEST_WITHOUT_LOOP(formats_without_the_port) {
    static const char *const texts[] = {"127.0.0.1", "::1", "fe80::1%7", "2001:db8::1"};
    char text[KOLO_ADDRESS_TEXT_MAX];
    kolo_address address;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        CHECK_OK(kolo_address_parse(texts[i], 8080, &address));
        CHECK_INT(kolo_address_format_ip(&address, text, sizeof text), strlen(texts[i]));
        CHECK_STRING(text, texts[i]);
        CHECK_ERROR(kolo_address_format_ip(&address, text, strlen(texts[i])), KOLO_ENOBUFS);
    }
    CHECK_ERROR(kolo_address_format_ip(NULL, text, sizeof text), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_format_ip(&address, NULL, sizeof text), KOLO_EINVAL);
    address.family = KOLO_FAMILY_NONE;
    CHECK_ERROR(kolo_address_format_ip(&address, text, sizeof text), KOLO_EINVAL);
}

TEST_WITHOUT_LOOP(compares_addresses) {
    static const char *const ordered[] = {"9.0.0.1:9", "10.0.0.1:1", "10.0.0.1:2", "[::1]:1", "[::1%3]:0", "[::2]:0"};
    enum { COUNT = sizeof ordered / sizeof ordered[0] };
    for (int i = 0; i < COUNT; i++) {
        for (int k = 0; k < COUNT; k++) {
            kolo_address one = endpoint(ordered[i]), other = endpoint(ordered[k]);
            int order = 7;
            CHECK_INT(kolo_address_equal(&one, &other), i == k);
            CHECK_OK(kolo_address_compare(&one, &other, &order));
            CHECK_INT(order, (i > k) - (i < k));
        }
    }
    kolo_address one = endpoint("[::1]:1"), other = one;
    int order = 7;
    other.flow = 99; /* does not count */
    CHECK_INT(kolo_address_equal(&one, &other), 1);
    other.family = 5;
    CHECK_ERROR(kolo_address_equal(&one, &other), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_compare(&other, &one, &order), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_equal(&one, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_equal(NULL, &one), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_compare(&one, NULL, &order), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_compare(NULL, &one, &order), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_compare(&one, &one, NULL), KOLO_EINVAL);
    CHECK_INT(order, 7);
}

TEST_WITHOUT_LOOP(says_what_an_address_is) {
    static const struct {
        const char *text;
        int loopback, unspecified, multicast, link_local, mapped;
    } cases[] = {
        {"127.0.0.1", 1, 0, 0, 0, 0},   {"127.255.0.9", 1, 0, 0, 0, 0},          {"::1", 1, 0, 0, 0, 0},
        {"0.0.0.0", 0, 1, 0, 0, 0},     {"::", 0, 1, 0, 0, 0},                   {"224.0.0.1", 0, 0, 1, 0, 0},
        {"ff02::1", 0, 0, 1, 0, 0},     {"169.254.7.7", 0, 0, 0, 1, 0},          {"fe80::1%3", 0, 0, 0, 1, 0},
        {"192.0.2.1", 0, 0, 0, 0, 0},   {"2001:db8::1", 0, 0, 0, 0, 0},          {"::ffff:192.0.2.1", 0, 0, 0, 0, 1},
        {"::ffff:127.0.0.1", 1, 0, 0, 0, 1}, {"::ffff:0.0.0.0", 0, 1, 0, 0, 1}, {"::ffff:239.1.1.1", 0, 0, 1, 0, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        kolo_address address = endpoint(cases[i].text);
        CHECK_INT(kolo_address_is_loopback(&address), cases[i].loopback);
        CHECK_INT(kolo_address_is_unspecified(&address), cases[i].unspecified);
        CHECK_INT(kolo_address_is_multicast(&address), cases[i].multicast);
        CHECK_INT(kolo_address_is_link_local(&address), cases[i].link_local);
        CHECK_INT(kolo_address_is_v4_mapped(&address), cases[i].mapped);
    }
    kolo_address none = endpoint("::1");
    none.family = KOLO_FAMILY_NONE;
    int (*const questions[])(const kolo_address *) = {kolo_address_is_loopback, kolo_address_is_unspecified,
                                                      kolo_address_is_multicast, kolo_address_is_link_local,
                                                      kolo_address_is_v4_mapped};
    for (size_t i = 0; i < sizeof questions / sizeof questions[0]; i++) {
        CHECK_ERROR(questions[i](&none), KOLO_EINVAL);
        CHECK_ERROR(questions[i](NULL), KOLO_EINVAL);
    }
}

TEST_WITHOUT_LOOP(unmaps_an_address_in_place) {
    kolo_address address = endpoint("[::ffff:192.0.2.1]:80"), expected = endpoint("192.0.2.1:80");
    CHECK_OK(kolo_address_unmap(&address, &address));
    CHECK(memcmp(&address, &expected, sizeof address) == 0);
    kolo_address other = endpoint("[fe80::1%7]:80"), out;
    CHECK_OK(kolo_address_unmap(&other, &out));
    CHECK_INT(kolo_address_equal(&other, &out), 1);
    CHECK_ERROR(kolo_address_unmap(NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_address_unmap(&other, NULL), KOLO_EINVAL);
    other.family = KOLO_FAMILY_NONE;
    CHECK_ERROR(kolo_address_unmap(&other, &out), KOLO_EINVAL);
}
