//! The Point-to-Point Protocol: LCP, PAP, IPCP, IPV6CP and session phases, whatever carries them.
